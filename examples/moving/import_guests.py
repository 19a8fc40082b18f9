"""Makes a guest token for each guest of a table: `python import_guests.py URL < guests.jsonl > tokens.jsonl`.

A line of the table is a JSON object with `subject`, `first_issued_at` (whole Unix seconds) and `payload`. A line of the
output is `{"subject", "token"}`, or `{"subject", "code", "detail"}` for a guest that the service refuses, such as one
whose cart does not fit into a cookie; then the exit code is 1. The API key is read from GUEST_API_KEY. Running it again
makes tokens of the same guests: a merge counts both tokens of a guest once. Needs Python 3.11 and nothing else.
"""

import itertools
import json
import os
import sys
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor

AT_ONCE = 8
BATCH = 1000  # lines that are held in memory


def issue(url: str, line: str) -> dict:
    """The output for one line of the table. Raises OSError where the service is unavailable."""
    guest = json.loads(line)
    members = {name: guest[name] for name in ("subject", "first_issued_at", "payload")}
    headers = {"Content-Type": "application/json", "X-API-Key": os.environ.get("GUEST_API_KEY", "").strip()}
    request = urllib.request.Request(f"{url.rstrip('/')}/v1/issue", json.dumps(members).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=10) as response:
            return {"subject": guest["subject"], "token": json.load(response)["token"]}
    except urllib.error.HTTPError as error:
        if error.code not in {400, 422}:  # a wrong API key, say, is not the guest's fault
            raise
        problem = json.load(error)
        return {"subject": guest["subject"], "code": problem["code"], "detail": problem["detail"]}


def main() -> int:
    url, refused = sys.argv[1], 0
    with ThreadPoolExecutor(AT_ONCE) as workers:
        while lines := list(itertools.islice(sys.stdin, BATCH)):
            for result in workers.map(lambda line: issue(url, line), lines):
                refused += "code" in result
                print(json.dumps(result))
    print(f"{refused} guests were refused", file=sys.stderr)
    return 1 if refused else 0


if __name__ == "__main__":
    sys.exit(main())
