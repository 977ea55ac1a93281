"""``fer-ignite pack``: builds the dataset cache, prints its facts, draws augmented images."""

from pathlib import Path
from typing import Any

import click

from fer_ignite.cli.options import ConfigCommand, config_options, given_settings
from fer_ignite.cli.shared_options import json_option
from fer_ignite.cli.values import FiniteRange, loading_torch, require_data, require_writable
from fer_ignite.config import READING_SETTINGS, check
from fer_ignite.errors import ConfigError

__all__ = ["command"]

# Settings of the cache, and of the augmentation that --preview draws.
_DATA = (
    "votes",
    "vote_mode",
    "vote_weight",
    "classes",
    "split",
    "val_fraction",
    "split_seed",
    *READING_SETTINGS,
    "bad_images",
    "cache",
    "channels",
    "image_size",
    "resize",
    "resize_mode",
    "seed",
    "hflip",
    "vflip",
    "rotate",
    "scale",
    "translate",
    "shear",
    "brightness",
    "contrast",
    "reprob",
    "blur",
    "noise",
    "mixup",
    "cutmix",
    "padding",
    "quiet",
)


@click.command("pack", cls=ConfigCommand, short_help="Read a data set once into a dataset cache.")
@click.argument("data")
@click.option("--preview", metavar="FILE.png", help="Draw a sheet of 8x8 augmented train faces.")
@click.option(
    "--verify", is_flag=True, help="Read the whole cache and compare it with its checksums."
)
@click.option(
    "--shards",
    metavar="FOLDER",
    help="Also write the data into a new folder as shards, which --data shards:URL reads.",
)
@click.option(
    "--shard-mb",
    type=FiniteRange(min=0.001, max=100_000),
    default=64.0,
    show_default=True,
    metavar="MB",
    help="Size at which a shard is closed.",
)
@json_option
@config_options(*_DATA)
def command(
    data: str,
    preview: str | None,
    *,
    shards: str | None,
    shard_mb: float,
    verify: bool,
    as_json: bool,
    **flags: Any,
) -> int:
    """Read DATA once into a dataset cache, and print what it holds.

    Training does the same on first use. Prints the cache's path, which every command takes as --data.
    """
    import json

    require_writable("--preview", preview)
    config = check({**given_settings(flags), "data": data})
    require_data([data])
    with loading_torch():
        from fer_ignite.data.open import find_cache
        from fer_ignite.data.readers.find import is_user_dataset

    if is_user_dataset(data):
        raise ConfigError(
            f"{data} is a user's data set, which is read as it is and needs no dataset cache."
        )
    if shards is not None:
        from fer_ignite.data.shards.shard_writer import require_new_folder

        require_new_folder(Path(shards))
    path, _ = find_cache(config, keep_files=shards is not None)
    assert path is not None
    from fer_ignite.data.cache.format import announced_source, describe, open_cache
    from fer_ignite.data.cache.manifest import verify_cache

    cache = open_cache(path)
    if verify:
        verify_cache(cache)
        # With --json, standard output holds nothing but the JSON.
        click.echo("every file and every image has its checksum.", err=as_json)
    source = announced_source(cache, data)
    shown = {**cache.manifest, "source": source, "path": str(path)}
    click.echo(
        json.dumps(shown, indent=2) if as_json else f"{describe(cache, source=source)}\n{path}"
    )
    if shards is not None:
        from fer_ignite.data.shards.shard_writer import write_shards

        write_shards(
            cache,
            Path(shards),
            shard_bytes=round(shard_mb * 1e6),
            source=source,
            progress=not config.quiet,
        )
        click.echo(f"shards: {shards}; train with --data shards:{shards}", err=as_json)
    if preview:
        from fer_ignite.runs.previews import draw_preview

        click.echo(draw_preview(config, path, path=preview), err=as_json)
    return 0
