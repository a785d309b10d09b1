"""`python -m experiments shard`: photographs as WebDataset shards."""

from pathlib import Path

import click

from commands.options import PATH


@click.command("shard")
@click.argument("source")
@click.argument("name")
@click.option("--data-root", type=PATH, default=Path("data"), help="Folder of data sets (default: data).")
@click.option("--shard-mib", type=click.IntRange(min=1), default=256, help="Size of a shard (default: 256).")
def shard_command(source: str, name: str, data_root: Path, shard_mib: int) -> None:
    """Write the photographs of SOURCE (imagenet, images:NAME or photographs) into WebDataset shards, shards:NAME.

    For storage that reads long files faster than many small ones.
    """
    from study.data import indexes  # with torch: seconds that `--help` does not take

    folder, counts = indexes.write_shards(source, name, data_root, shard_mib)
    print(f"{counts['train']} training and {counts['val']} validation images are in {folder}: data set shards:{name}")
