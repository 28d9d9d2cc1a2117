"""Makes the models of the zoo and the requests to them: make.py MODELS REQUESTS."""

import sys
import warnings

# Of conversions to NumPy, which is not there, and of parts of PyTorch that will be removed some day.
warnings.filterwarnings("ignore")

import torch

import behaviour
import files
import kinds
import networks
import results
import signatures
from record import Zoo


def main(models, requests):
    torch.set_num_threads(1)
    zoo = Zoo(models)
    for part in (signatures, results, kinds, networks, behaviour, files):
        torch.manual_seed(0)
        part.add_to(zoo)
    zoo.write(requests)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
