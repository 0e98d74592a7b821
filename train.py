"""Train and test one run: ``python train.py model=xopinet``; sweep many: ``-m model=unet,potinet seed=0,1``."""

from cellseg.train import start

if __name__ == "__main__":
    start()
