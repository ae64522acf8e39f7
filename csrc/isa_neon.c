/* The kernels for neon: vectors of 128 bits. */
#define ISA neon
#define VECTOR_BYTES 16
#define NARROW_VECTORS 2
#define NARROW_ROWS 12
#define WIDE_VECTORS 4
#define WIDE_ROWS 6
#include "kernels/kernels.inc"
