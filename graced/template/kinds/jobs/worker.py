"""One job is one file: its SHA-256."""

import hashlib

from graced import Discard, Job, JobWorker


class Digest(JobWorker):
    """The payload is the path of a file; the result, its digest and size."""

    def handle(self, job: Job) -> dict[str, str | int]:
        # What is raised is logged, and the job tried again later; Discard gives it up at once.
        if not isinstance(job.payload, str):
            raise Discard(f"write the path of a file as a JSON text, not {job.payload!r}")
        with open(job.payload, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            size = file.tell()
        self.log.info("%s: %s", job.payload, digest)
        return {"sha256": digest, "bytes": size}
