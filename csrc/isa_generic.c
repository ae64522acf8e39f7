/* The kernels for generic: vectors of 128 bits. */
#define ISA generic
#define VECTOR_BYTES 16
#define NARROW_VECTORS 2
#define NARROW_ROWS 6
#define WIDE_VECTORS 4
#define WIDE_ROWS 3
#include "kernels/kernels.inc"
