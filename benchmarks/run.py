"""`make bench`: every benchmark in a process of its own, one after the other. Long; figures land in results/."""

import subprocess
import sys

NAMES = (
    "mlp_step",
    "unet",
    "weight_gradient",
    "order",
    "audit",
    "first_step",
    "members",
    "table_fit",
    "tables",
    "table_losses",
    "ctc",
    "digits_seeds",
    "instruments",
    "spiral",
    "poisson",
    "jinns_burgers",
    "kills",
)


def main() -> int:
    """Exit status 1 if any benchmark failed."""
    failed = []
    for name in NAMES:
        sys.stdout.write(f"\n== {name}\n")
        sys.stdout.flush()
        if subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=False).returncode:
            failed.append(name)
    sys.stdout.write(f"failed: {', '.join(failed)}\n" if failed else "all benchmarks ran\n")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main())
