"""The command line: read arguments, call one function, print."""

from slipstream.cli.app import main

__all__ = ["main"]
