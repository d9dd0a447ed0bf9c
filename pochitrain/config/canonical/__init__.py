"""Values as a flat map path → leaf: equal maps mean equal behaviour, and two maps can be compared by a reader.

    learning_rate                        float:0x1.0624dd2f1a9fcp-10
    train_transform                      object:torchvision.transforms.transforms.Compose
    train_transform.transforms[0].size   int:224
    train_transform.transforms[1].lambd  ref:def add_noise
    def add_noise                        code:4be0…                      its syntax, without layout
    def add_noise: SIGMA                 float:0x1.999999999999ap-4      a name that it reads
    def add_noise(clip)                  bool:True                       a default value

The user's own functions, classes and modules stand under a name of their own, once, however often they are reached. The
order of dicts counts where the user's code can see it, and in the settings that say so; key order in a file does not.

Not seen: what the code reads from disk, what it imports under a computed name, compiled extensions of the user's own,
and functions of a library that the user's code has replaced.
"""

from pochitrain.config.canonical.difference import difference
from pochitrain.config.canonical.walk import canonical, digest, readers

__all__ = ["canonical", "difference", "digest", "readers"]
