"""Write the conversations; see :mod:`benchmarks.conversations.collection`."""

import typer

from benchmarks.conversations.collection import main

typer.run(main)
