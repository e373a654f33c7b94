"""The command `optimum-cli export adapterdrop`: the options and the program of `python -m exporter`.

The wheel contains this file a second time, as optimum/commands/register/register_adapterdrop.py: Optimum reads every file of
that namespace folder. It is no package, so the folder changes nothing where Optimum is not installed.
"""

import sys
from argparse import ArgumentParser
from typing import ClassVar

from optimum.commands.base import BaseOptimumCLICommand, CommandInfo
from optimum.commands.export.base import ExportCommand

from exporter.cli.main import run
from exporter.cli.options import add_export_options


class AdapterDropExportCommand(BaseOptimumCLICommand):  # type: ignore[misc]  # Optimum has no types
    """Exports all tasks of an adapter model into one ONNX graph."""

    COMMAND: ClassVar = CommandInfo(name="adapterdrop", help="Export adapter tasks into one ONNX graph with a shared trunk.")

    @staticmethod
    def parse_args(parser: ArgumentParser) -> None:
        """Add the options of `python -m exporter`."""
        add_export_options(parser)

    def run(self) -> None:
        """Export, and end the program with the status of `python -m exporter`."""
        sys.exit(run("exporter.cli.export", self.args))


REGISTER_COMMANDS = [(AdapterDropExportCommand, ExportCommand)]
