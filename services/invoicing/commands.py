"""Edge: the command line. `python -m services.invoicing import-ecb-rates [FILE or URL]`."""

import argparse
import sys

from services.invoicing.repository import InvoicingUnitOfWork
from services.invoicing.settings import InvoicingSettings
from services.invoicing.use_cases.import_ecb_rates import URL, import_ecb_rates
from services.invoicing.use_cases.read_source import read_source
from shared.runtime import Runtime

InvoicingRuntime = Runtime[InvoicingUnitOfWork, InvoicingSettings]


async def import_ecb_rates_command(runtime: InvoicingRuntime, arguments: list[str]) -> int:
    """Read the ECB's file and say how many rates were new."""
    parser = argparse.ArgumentParser(prog="python -m services.invoicing import-ecb-rates")
    parser.add_argument("source", nargs="?", default=URL, help="a file or an address")
    source = parser.parse_args(arguments).source
    xml = await read_source(source)
    async with runtime.begin() as uow:
        new = await import_ecb_rates(uow, xml)
    sys.stdout.write(f"{new} exchange rates were new.\n")
    return 0
