"""What all tests need."""

import signal

if (
    signal.getsignal(signal.SIGINT) is signal.SIG_IGN
):  # a shell's background job, which its children would inherit
    signal.signal(signal.SIGINT, signal.default_int_handler)

pytest_plugins = ["support.serving"]  # fixtures of bundles and running servers
