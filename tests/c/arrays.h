/* arrays.h -- random numbers and arrays for the C test programs. Arrays are exactly as large as promised, so that a sanitizer sees
 * every step outside, and are filled with NaN beforehand, so that what is read unset or left unwritten shows. */
#ifndef ARRAYS_H
#define ARRAYS_H

#include "fastconv.h"

#include "check.h"

#include <math.h>
#include <stdbool.h>
#include <string.h>

static uint64_t state;

static uint32_t random_bits(void) /* splitmix64 */
{
    uint64_t z = (state += UINT64_C(0x9e3779b97f4a7c15));
    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)((z ^ (z >> 31)) >> 32);
}

static ptrdiff_t below(ptrdiff_t n) { return (ptrdiff_t)(random_bits() % (uint32_t)n); }

#define PICK(...) ((const ptrdiff_t[]){__VA_ARGS__}[below(sizeof((ptrdiff_t[]){__VA_ARGS__}) / sizeof(ptrdiff_t))])

typedef struct array {
    void *memory, *data;
    size_t bytes;
} array;

/* Aligned to its element and, with `shifted`, to nothing more. */
static array new_array(ptrdiff_t elements, fc_dtype dtype, bool shifted)
{
    size_t size = dtype == FC_FLOAT32 ? sizeof(float) : sizeof(double);
    array a = {.bytes = (size_t)elements * size};
    a.memory = malloc(a.bytes + (shifted ? size : 0) + (a.bytes == 0));
    CHECK(a.memory != NULL);
    a.data = (char *)a.memory + (shifted ? size : 0);
    memset(a.data, 0xff, a.bytes);
    return a;
}

/* Small whole numbers: every sum is exact in either type, in whatever order. */
static void fill(array a, fc_dtype dtype)
{
    if (dtype == FC_FLOAT32)
        for (size_t i = 0; i < a.bytes / sizeof(float); i++)
            ((float *)a.data)[i] = (float)(below(5) - 2);
    else
        for (size_t i = 0; i < a.bytes / sizeof(double); i++)
            ((double *)a.data)[i] = (double)(below(5) - 2);
}

static double element(array a, fc_dtype dtype, ptrdiff_t i)
{
    return dtype == FC_FLOAT32 ? ((float *)a.data)[i] : ((double *)a.data)[i];
}

/* tolerance: of the largest element, or of 1, which is what whole numbers are made of */
static inline bool same(array a, array b, fc_dtype dtype, double tolerance)
{
    ptrdiff_t n = (ptrdiff_t)(a.bytes / (dtype == FC_FLOAT32 ? sizeof(float) : sizeof(double)));
    double largest = 1;
    for (ptrdiff_t i = 0; i < n; i++)
        largest = fmax(largest, fabs(element(b, dtype, i)));
    for (ptrdiff_t i = 0; i < n; i++) {
        double left = element(a, dtype, i), right = element(b, dtype, i);
        if (!(fabs(left - right) <= tolerance * largest)) { /* also where either is NaN */
            printf("element %td is %g, the reference says %g\n", i, left, right);
            return false;
        }
    }
    return true;
}

#endif
