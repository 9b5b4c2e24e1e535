"""Fashion-MNIST: MNIST's format with articles of clothing."""

from __future__ import annotations

from pathlib import Path

from etastar.data.download import Published
from etastar.data.mnist import grey_images, idx_files
from etastar.data.raw import RawData

# SHA-256 as TensorFlow Datasets pins them (url_checksums/fashion_mnist.txt).
PUBLISHED = Published(
    name="fashion-mnist",
    source=(
        "Fashion-MNIST, Xiao, Rasul & Vollgraf 2017 (arXiv 1708.07747), "
        "https://github.com/zalandoresearch/fashion-mnist"
    ),
    licence="MIT (Zalando SE)",
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "https://storage.googleapis.com/tensorflow/tf-keras-datasets/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    files=idx_files(
        "3aede38d61863908ad78613f6a32ed271626dd12800ba2636569512369268a84",
        "a04f17134ac03560a47e3764e11b92fc97de4d1bfaf8ba1a3aa29af54cc90845",
        "346e55b948d973a97e58d2351dde16a484bd415d4595297633bb08f03db6a073",
        "67da17c76eaffca5446c3361aaab5c3cd6d1c2608764d35dfb1850b086bf8dd5",
    ),
)


def load_fashion_mnist(folder: Path | None, progress: bool) -> RawData:
    """Fashion-MNIST: 60,000 + 10,000 grey images, 28×28; validation is the test split."""
    return grey_images(PUBLISHED, folder, progress)
