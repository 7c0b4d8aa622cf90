"""Checked ONNX graphs as torch nets: read node by node, nothing in the file is run.

The graph is walked once with a few sample rows, so that every shape is known; what does not depend on the rows is
computed at once, the rest becomes a ``torch.fx`` graph of ordinary layers that can be traced and bounded. Rows must stay
apart: the first axis is the batch throughout. A softmax or sigmoid at the end is left out, since logits are wanted.
Operators without interval bounds are read too: gradients need none.

``reader`` holds the net while it grows, ``layers``, ``windows``, ``arithmetic`` and ``shapes`` say what each operator is,
``graph`` puts them together.
"""
