"""A cluster on one machine: a folder is the API, one process a pretend node runs the pods.

The folder (`layout`) holds nodes and pods durably and is written by clients and nodes alike, each file by one kind of
writer: exclusive renames and short file locks give create-once and compare-and-set, and nothing depends on any process
being alive. A node process (`node`) runs the pods bound to it as its children, reports liveness, and pushes change
hints; a client (`client`) reads and writes the folder and tells the nodes to look.
"""
