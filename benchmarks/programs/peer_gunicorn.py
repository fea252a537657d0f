"""Idle workers under gunicorn: the application, and the settings that report readiness."""

from say import say

bind = "127.0.0.1:0"
accesslog = None


def post_worker_init(_worker: object) -> None:
    say(b"ready")


def application(_environ: object, start_response: object) -> list[bytes]:
    start_response("200 OK", [])  # type: ignore[operator]
    return [b""]
