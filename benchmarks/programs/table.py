"""An import of about 50 MB, as small objects: what reference counts and gc like to unshare."""

ROWS = [
    {"number": number, "name": f"row {number}", "tags": (str(number), number + 0.5)}
    for number in range(120_000)
]
