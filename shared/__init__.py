"""What more than one service needs, and no business rule."""
