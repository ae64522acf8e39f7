/* The kernels for avx512: vectors of 512 bits. */
#define ISA avx512
#define VECTOR_BYTES 64
#define NARROW_VECTORS 2
#define NARROW_ROWS 14
#define WIDE_VECTORS 4
#define WIDE_ROWS 6
#include "kernels/kernels.inc"
