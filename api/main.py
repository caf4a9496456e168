"""The application that servers run: `python -m api.serve`, or `uvicorn api.main:app`."""

from api.app import create_app

app = create_app()
