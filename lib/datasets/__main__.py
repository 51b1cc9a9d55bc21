"""python -m lib.datasets: sample the portraits that the embedded generator is trained on."""

import argparse
import os

from lib.datasets.portraits import Plan, sample_portraits


def main() -> None:
    parser = argparse.ArgumentParser(
        description="Sample the portraits that the embedded generator is trained on."
    )
    for field, default in vars(Plan()).items():
        parser.add_argument(f"--{field.replace('_', '-')}", type=type(default), default=default)
    parser.add_argument("--processes", type=int, default=os.cpu_count())
    arguments = vars(parser.parse_args())
    processes = arguments.pop("processes")
    try:
        plan = Plan(**arguments)
    except ValueError as error:
        parser.error(str(error))
    print(sample_portraits(plan, processes))


if __name__ == "__main__":
    main()
