"""Where the files of public data sets are, and what they must be."""

from __future__ import annotations

from dynat_ray.data.preparing.download import PublicFile

# Digests as TensorFlow Datasets and others publish them.
MNIST = {
    name: PublicFile(sha256, (f"https://ossci-datasets.s3.amazonaws.com/mnist/{name}.gz",))
    for name, sha256 in {
        "train-images-idx3-ubyte": (
            "440fcabf73cc546fa21475e81ea370265605f56be210a4024d2ca8f203523609"
        ),
        "train-labels-idx1-ubyte": (
            "3552534a0a558bbed6aed32b30c495cca23d567ec52cac8be1a0730e8010255c"
        ),
        "t10k-images-idx3-ubyte": (
            "8d422c7b0a1c1c79245a5bcf07fe86e33eeafee792b84584aec276f5a2dbc4e6"
        ),
        "t10k-labels-idx1-ubyte": (
            "f7ae60f92e00ec6debd23a6088c31dbd2371eca3ffa0defaefb259924204aec6"
        ),
    }.items()
}
# Its server may speak http alone; what counts is the digest.
SVHN = {
    split: PublicFile(
        sha256,
        tuple(
            f"{scheme}://ufldl.stanford.edu/housenumbers/{split}_32x32.mat"
            for scheme in ("https", "http")
        ),
    )
    for split, sha256 in {
        "train": "435e94d69a87fde4fd4d7f3dd208dfc32cb6ae8af2240d066de1df7508d083b8",
        "test": "cdce80dfb2a2c4c6160906d0bd7c68ec5a99d7ca4831afa54f09182025b6a75b",
    }.items()
}
# The binary versions: the others are pickles.
CIFAR10 = PublicFile(
    "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
    ("https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz",),
)
CIFAR100 = PublicFile(
    "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
    ("https://www.cs.toronto.edu/~kriz/cifar-100-binary.tar.gz",),
)
TINY_IMAGENET = PublicFile(
    "6198c8ae015e2b3e007c7841da39ec069199b9aa3bfa943a462022fe5e43c821",
    ("https://cs231n.stanford.edu/tiny-imagenet-200.zip",),
)
