/* prelude.cuh -- stands before every other source here: types, loads and stores, sums of a block.
 *
 * Compiled at run time with -D FC_REAL= 0 (float), 1 (double), 2 (half), 3 (bfloat16): what arrays hold. Sums and everything
 * between a load and a store are of type Acc. No header is included: none need be installed. */

typedef long long int64;
typedef unsigned long long uint64;
typedef unsigned int uint32;

#if FC_REAL == 0
typedef float Real;
typedef float Acc;
#elif FC_REAL == 1
typedef double Real;
typedef double Acc;
#else
struct Real {
    unsigned short bits;
};
typedef float Acc;
#endif

/* What an element's index is divided in: 64 bits (-D FC_WIDE) only for arrays that need it, since they are slow. */
#ifdef FC_WIDE
typedef int64 Index;
#else
typedef uint32 Index;
#endif

#define INLINE static __device__ __forceinline__
#define KERNEL extern "C" __global__ void

#if FC_REAL == 0 || FC_REAL == 1
INLINE Acc load(const Real *p) { return *p; }
INLINE void store(Real *p, Acc v) { *p = v; }
#elif defined FC_EMULATED
INLINE Acc load(const Real *p) { return fc_widen(p->bits); }
INLINE void store(Real *p, Acc v) { p->bits = fc_narrow(v); }
#elif FC_REAL == 2
INLINE Acc load(const Real *p)
{
    float v;
    asm("cvt.f32.f16 %0, %1;" : "=f"(v) : "h"(p->bits));
    return v;
}
INLINE void store(Real *p, Acc v)
{
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(v));
    p->bits = bits;
}
#else /* bfloat16: the upper half of a float, to the nearest even */
INLINE Acc load(const Real *p) { return __uint_as_float((uint32)p->bits << 16); }
INLINE void store(Real *p, Acc v)
{
    const uint32 bits = __float_as_uint(v);
    p->bits = (unsigned short)(v != v ? bits >> 16 | 64 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
#endif

INLINE Acc infinity() { return (Acc)(1e300 * 1e300); }
INLINE Acc not_a_number() { return infinity() - infinity(); }
INLINE int64 least(int64 a, int64 b) { return a < b ? a : b; }
INLINE int64 most(int64 a, int64 b) { return a > b ? a : b; }

/* Elements i of 0 .. n-1 that are this thread's: neighbours belong to neighbouring threads. */
#define EACH(i, n)                                                                                                     \
    for (int64 i = (int64)blockIdx.x * blockDim.x + threadIdx.x; i < (n); i += (int64)gridDim.x * blockDim.x)

/* The finaliser of SplitMix64, and 32 random bits for element i: as csrc/core.h has them. */
INLINE uint64 mix(uint64 z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
INLINE uint32 draw(uint64 key, uint64 i)
{
    return (uint32)(mix((i / 2 + 1) * 0x9e3779b97f4a7c15u + key) >> (i % 2 * 32));
}

/* Those who do one reduction together: a whole block of SIZE threads (a power of two), or one thread alone. Sums are
 * taken in one order, whatever happens. */
template <int SIZE> struct Team {
    static __device__ __forceinline__ int rank() { return (int)threadIdx.x; }
    template <class T> static __device__ __forceinline__ T sum(T v)
    {
        __shared__ T parts[SIZE];
        parts[threadIdx.x] = v;
        for (int half = SIZE / 2; half > 0; half /= 2) {
            __syncthreads();
            if ((int)threadIdx.x < half)
                parts[threadIdx.x] += parts[threadIdx.x + half];
        }
        __syncthreads();
        const T total = parts[0];
        __syncthreads();
        return total;
    }
    /* NaN is never the largest, as on the CPU: it comes through in the sum. */
    template <class T> static __device__ __forceinline__ T largest(T v)
    {
        __shared__ T parts[SIZE];
        parts[threadIdx.x] = v;
        for (int half = SIZE / 2; half > 0; half /= 2) {
            __syncthreads();
            if ((int)threadIdx.x < half && parts[threadIdx.x + half] > parts[threadIdx.x])
                parts[threadIdx.x] = parts[threadIdx.x + half];
        }
        __syncthreads();
        const T top = parts[0];
        __syncthreads();
        return top;
    }
};
template <> struct Team<1> {
    static __device__ __forceinline__ int rank() { return 0; }
    template <class T> static __device__ __forceinline__ T sum(T v) { return v; }
    template <class T> static __device__ __forceinline__ T largest(T v) { return v; }
};
