"""Ports that tests hand out to servers."""

import subprocess
import sys

from tests.ports import MOST_HELD

HAND_OUT = f"""
from tests.ports import free_port
print(*(free_port() for _ in range({MOST_HELD})), flush=True)
input()
"""


def test_processes_side_by_side_hand_out_different_ports() -> None:
    processes = [
        subprocess.Popen([sys.executable, "-c", HAND_OUT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)  # noqa: S603 - our own program
        for _ in range(4)
    ]
    ports: list[str] = []
    for process in processes:
        assert process.stdout
        ports += process.stdout.readline().split()
    for process in processes:
        process.communicate("\n")

    assert len(ports) == 4 * MOST_HELD
    assert len(set(ports)) == len(ports)
