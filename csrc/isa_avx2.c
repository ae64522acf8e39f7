/* The kernels for avx2: vectors of 256 bits. */
#define ISA avx2
#define VECTOR_BYTES 32
#define NARROW_VECTORS 2
#define NARROW_ROWS 6
#define WIDE_VECTORS 4
#define WIDE_ROWS 3
#include "kernels/kernels.inc"
