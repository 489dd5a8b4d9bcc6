"""`python -m infra.native up|down|status|logs|servers|exec`: the system without Docker."""

from infra.native.temporary import serve

raise SystemExit(serve())
