"""Documents: PDF with the e-invoice in it, and UBL. Imported by the rendering process alone."""
