"""video2dataset as `benchmarks/faults.py` runs it, in an environment of its own: URLS (a folder of CSVs) and OUTPUT.

Its own defaults but for what a fair run needs: small shards, so that there is something to resume, and two processes.
Without arguments: prints its version.
"""

from __future__ import annotations

import sys
from importlib.metadata import version


def main() -> None:
    """Downloads; the same words again go on where it was."""
    if len(sys.argv) == 1:
        print(version("video2dataset"))
        return
    from omegaconf import OmegaConf
    from video2dataset import video2dataset
    from video2dataset.configs import CONFIGS

    config = OmegaConf.to_container(CONFIGS["default"])
    config["storage"]["number_sample_per_shard"] = 50
    config["distribution"] |= {"processes_count": 2, "thread_count": 8, "distributor": "multiprocessing"}
    video2dataset(
        url_list=sys.argv[1],
        output_folder=sys.argv[2],
        output_format="webdataset",
        input_format="csv",
        url_col="url",
        caption_col="caption",
        incremental_mode="incremental",
        enable_wandb=False,
        encode_formats={"video": "mp4"},
        config=config,
    )


if __name__ == "__main__":
    main()
