"""Real nodes: the same algorithms on Flower, each client's data on the machine that it belongs to.

    plan      what is trained, as JSON, and the simulation of the same
    wire      named tensors as Flower's records, and what a node's clients keep, with versions
    node      the ClientApp: convert, the core's ``work``, convert
    server    the ServerApp: rounds with the core's ``serve``; ``roster`` knows which clients are where
    loop      a grid in this process that runs the same two apps
    warm      a node that stays: the same protocol as Flower's, without a process and an import of torch a message
    federation  a SuperLink and nodes on this machine, owned by one process that ends them all

Beyond ``plan`` it needs Flower, the extra ``nodes``: ``pip install "fmlab[nodes]"``. Nothing here is imported with
fmlab.

MKL otherwise takes other instructions for a matrix that lies elsewhere in memory, and a client's last bit would depend
on who stands beside it in a batch. It reads this setting at its first product, so import this before you compute.
"""

import os

os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
