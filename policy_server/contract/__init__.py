"""What training and serving agree on. Needs numpy only; every room may import these modules.

`bundle`, `manifest`, `field`: a policy on disk. `policy`, `errors`, `choices`: what users of a
policy see. `wire`: the messages. `doors/`: how users add parts. `disk/`: files. `signals`, `clock`,
`commit`, `noise`, `checks`, `interval`, `onnx_import`: small helpers with one home.
"""
