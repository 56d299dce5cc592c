"""The start of the flow server's process, which ends with the program: also while it loads torch and starts the device."""

import os
import select
import socket
import threading
from contextlib import suppress


def end_with_program(control: socket.socket) -> None:
    """End this process as soon as the other end of `control` is closed, whatever it is doing then."""
    hang_up = select.poll()
    hang_up.register(control, 0)  # for no event but the hang-up, which is always reported

    def wait() -> None:
        hang_up.poll()
        os._exit(0)

    threading.Thread(target=wait, name="end with the program", daemon=True).start()


def main() -> None:
    """Run the server; standard input is the socket of the program that started it."""
    control = socket.socket(fileno=0)
    end_with_program(control)
    from twostream.flow import server  # loads torch, which takes seconds

    with suppress(ConnectionError):  # the program has ended
        server.main(control)


if __name__ == "__main__":
    main()
