"""Starts guest-sessions and the shop, prints the address, ends both on Ctrl-C: `make demo`."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from pathlib import Path

HERE = Path(__file__).parent
ROOT = HERE.parents[1]
SERVICE_PORT = int(os.environ.get("DEMO_SERVICE_PORT", "8090"))
SHOP_PORT = int(os.environ.get("DEMO_SHOP_PORT", "8000"))
SERVICE, SHOP = f"http://127.0.0.1:{SERVICE_PORT}", f"http://127.0.0.1:{SHOP_PORT}"


def environments(keys: str) -> tuple[dict[str, str], dict[str, str]]:
    """The service's and the shop's: each gets its own settings, and both an API key made for this run."""
    api_key = secrets.token_urlsafe(24)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GUEST_")}
    service = {
        "GUEST_PORT": str(SERVICE_PORT),
        "GUEST_KEYS_DIR": keys,
        "GUEST_ISSUER": SERVICE,
        "GUEST_API_KEYS": api_key,
        "GUEST_MERGE_POLICIES": str(HERE / "policies.toml"),
        "GUEST_LOG_LEVEL": "error",
    }
    shop = {"GUEST_URL": SERVICE, "GUEST_ISSUER": SERVICE, "GUEST_API_KEY": api_key}
    return inherited | service, inherited | shop


def require_free(port: int, variable: str) -> None:
    """Ends with a word where somebody else has the port."""
    try:
        socket.create_server(("127.0.0.1", port)).close()
    except OSError:
        sys.exit(f"port {port} is taken: say another with {variable}=...")


def wait_for(url: str, process: subprocess.Popen[bytes]) -> None:
    """Returns once the address answers; ends everything if its process dies."""
    for _ in range(200):
        if process.poll() is not None:
            sys.exit(f"what should serve {url} ended with exit code {process.returncode}")
        try:
            with urllib.request.urlopen(url, timeout=2):
                return
        except (urllib.error.URLError, OSError):
            time.sleep(0.1)
    sys.exit(f"{url} does not answer")


def main() -> None:
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    require_free(SERVICE_PORT, "DEMO_SERVICE_PORT")
    require_free(SHOP_PORT, "DEMO_SHOP_PORT")
    processes: list[subprocess.Popen[bytes]] = []
    with tempfile.TemporaryDirectory() as keys:
        for_service, for_shop = environments(keys)
        starts = (
            (f"{SERVICE}/readyz", [sys.executable, "-m", "service", "serve"], for_service),
            (SHOP, [sys.executable, str(HERE / "app.py"), str(SHOP_PORT)], for_shop),
        )
        try:
            for url, command, settings in starts:
                processes.append(subprocess.Popen(command, env=settings, cwd=ROOT))
                wait_for(url, processes[-1])
            print(f"\n  The shop is open at {SHOP}  (guest-sessions behind it: {SERVICE})\n", flush=True)
            print("  Pick something, open a second browser or a private window, pick something else,", flush=True)
            print("  log in as Ada in both (password: clay): the carts come together. Ctrl-C closes.\n", flush=True)
            processes[-1].wait()
        except KeyboardInterrupt:
            print("\n  The shop is closed.")
        finally:
            for process in reversed(processes):
                process.terminate()
            for process in processes:
                process.wait(timeout=10)


if __name__ == "__main__":
    main()
