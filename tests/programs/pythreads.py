"""Four threads that map, fill, hash and parse."""

import hashlib
import json
import mmap
import sys
import threading


def work(number: int, rounds: int) -> None:
    for i in range(rounds):
        with mmap.mmap(-1, 256 << 10) as area:
            area[:] = bytes([i & 255]) * len(area)
            digest = hashlib.sha256(area).hexdigest()
        json.loads(json.dumps({"thread": number, "digest": [digest] * 50}))


rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 20
threads = [threading.Thread(target=work, args=(n, rounds)) for n in range(4)]
for one in threads:
    one.start()
for one in threads:
    one.join()
