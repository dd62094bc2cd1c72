"""`python -m spatialvla <verb>`, which is how torchrun starts it."""

from spatialvla.cli.main import main

if __name__ == "__main__":
    main()
