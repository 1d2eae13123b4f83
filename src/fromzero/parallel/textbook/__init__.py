"""Each kind of parallelism from scratch, short, to be read; tests hold them equal to torch's and to one process.

Reading order: `data_parallel` (sum gradients while the backward pass goes on), `sharded_optimizer` (ZeRO-1),
`tensor_parallel` (matrices cut in columns and rows), `ring_attention` (sequences cut), `one_f_one_b` (layers cut).
"""
