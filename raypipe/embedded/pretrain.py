"""Make the nano checkpoint from nothing on two cores: vision first, then language.

    python -m raypipe.embedded.pretrain --output raypipe/embedded/nano

Deterministic for the same versions and number of threads. It never sees a listing of the embedded
catalog: its products come from seeds of their own, and its photos are kinder.
"""

import argparse
import logging
from pathlib import Path

VISION_PRODUCTS, VISION_STEPS = 9000, 2200
LANGUAGE_PRODUCTS, LANGUAGE_STEPS = 5000, 1500
THREADS = 2


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, required=True, help="directory of the checkpoint")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--vision-steps", type=int, default=VISION_STEPS)
    parser.add_argument("--language-steps", type=int, default=LANGUAGE_STEPS)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    import torch

    from raypipe.embedded import nano
    from raypipe.embedded.language import teach_language
    from raypipe.embedded.vision import teach_vision

    torch.set_num_threads(THREADS)
    processor = nano.build_processor()
    model = nano.build_model(processor, seed=arguments.seed)
    teach_vision(
        model,
        processor,
        num_products=VISION_PRODUCTS,
        num_steps=arguments.vision_steps,
        seed=arguments.seed,
    )
    teach_language(
        model,
        processor,
        num_products=LANGUAGE_PRODUCTS,
        num_steps=arguments.language_steps,
        seed=arguments.seed,
    )
    nano.save(model, processor, arguments.output)


if __name__ == "__main__":
    main()
