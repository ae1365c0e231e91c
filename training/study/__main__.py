"""``python -m training.study``."""

from training.study.run import main

if __name__ == "__main__":
    main()
