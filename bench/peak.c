/* peak.c -- the two speeds that every percentage of the bench is a percentage of, multiply-adds and memory copies; and how far apart two
 * processors are.
 * Built at run time by peak.py, once per instruction set: VECTOR is the register's size in bytes, REAL the type.
 * The vector length is spelled out, so that the compiler's own vectoriser has nothing to decide. */
#include <stddef.h>
#include <string.h>

typedef REAL vec __attribute__((vector_size(VECTOR)));

/* Enough independent sums to cover the latency of two multiply-adds a cycle (4 to 5 cycles: 10), few enough that they
 * and the two operands stay in 16 registers. */
#define SUMS 12
#define REPEATS 8

/* Floating-point operations (a multiply-add is two) of one iteration of peak_multiply_add. */
long peak_operations(void) { return 2L * SUMS * REPEATS * (long)(VECTOR / sizeof(REAL)); }

/* The operands are arguments, so that nothing is known while compiling. With scale 0.5 and shift 1 every sum tends to 2:
 * neither overflow nor denormals. The result depends on every operation. */
double peak_multiply_add(long iterations, double scale_value, double shift_value)
{
    vec scale = (vec){0} + (REAL)scale_value, shift = (vec){0} + (REAL)shift_value;
    vec sum[SUMS];
    for (int i = 0; i < SUMS; i++)
        sum[i] = shift + (REAL)i;
    for (long n = 0; n < iterations; n++)
#pragma GCC unroll 8
        for (int r = 0; r < REPEATS; r++)
#pragma GCC unroll 12
            for (int i = 0; i < SUMS; i++)
                sum[i] = sum[i] * scale + shift;
    vec total = sum[0];
    for (int i = 1; i < SUMS; i++)
        total += sum[i];
    double result = 0;
    for (size_t lane = 0; lane < VECTOR / sizeof(REAL); lane++)
        result += (double)total[lane];
    return result;
}

/* Waits for its turn and gives it to the other thread, so many times. me: 0 or 1. */
void peak_handover(int *turn, int me, long count)
{
    for (long n = 0; n < count; n++) {
        while (__atomic_load_n(turn, __ATOMIC_ACQUIRE) != me)
            continue;
        __atomic_store_n(turn, !me, __ATOMIC_RELEASE);
    }
}

void peak_copy(void *to, const void *from, size_t bytes) { memcpy(to, from, bytes); }
