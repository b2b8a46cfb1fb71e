// What latent_attention.cu needs of a GPU (compute capability 9.0 and later), without headers.

typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef long long int64_t;
#define INFINITY __int_as_float(0x7f800000)
#define DEVICE __device__ __forceinline__
#define KERNEL extern "C" __global__ __launch_bounds__(32 * WARPS, 1)
#define SHARED_MEMORY(name) extern __shared__ __align__(128) char name[]
#define UNROLL _Pragma("unroll")

DEVICE uint32_t in_shared(const void* pointer) {
    return (uint32_t)__cvta_generic_to_shared(pointer);
}

// Barriers that bytes arrive at (mbarrier), and the copies that bring them (cp.async.bulk).
DEVICE void barrier_init(void* barrier) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(in_shared(barrier)) : "memory");
}

DEVICE void barriers_are_ready() {
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
}

DEVICE void expect_bytes(void* barrier, int bytes) {
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
        :: "r"(in_shared(barrier)), "r"(bytes) : "memory");
}

DEVICE void copy_bytes(void* target, const void* source, int bytes, void* barrier) {
    asm volatile(
        "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, [%3];"
        :: "r"(in_shared(target)), "l"(source), "r"(bytes), "r"(in_shared(barrier)) : "memory");
}

DEVICE void wait_for(void* barrier, int parity) {
    asm volatile(
        "{ .reg .pred done; again: "
        "mbarrier.try_wait.parity.shared::cta.b64 done, [%0], %1; @!done bra again; }"
        :: "r"(in_shared(barrier)), "r"(parity) : "memory");
}

// Matrices of 8 x 16 bytes from shared memory, as the tensor cores take them (ldmatrix): lane i
// gives the address of row i % 8 of matrix i / 8. `turned`: transposed, by 16 bits.
DEVICE void matrices_4(uint32_t (&a)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(in_shared(row)) : "memory");
}

DEVICE void turned_matrices_4(uint32_t (&a)[4], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
        : "=r"(a[0]), "=r"(a[1]), "=r"(a[2]), "=r"(a[3]) : "r"(in_shared(row)) : "memory");
}

DEVICE void matrices_2(uint32_t (&a)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
        : "=r"(a[0]), "=r"(a[1]) : "r"(in_shared(row)) : "memory");
}

DEVICE void turned_matrices_2(uint32_t (&a)[2], const void* row) {
    asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
        : "=r"(a[0]), "=r"(a[1]) : "r"(in_shared(row)) : "memory");
}

// sum [16, 8] += a [16, 16] . b [16, 8]
#if BF16 && !FLOAT8
#define PRODUCT "bf16.bf16"
#else
#define PRODUCT "f16.f16"
#endif
DEVICE void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    asm volatile("mma.sync.aligned.m16n8k16.row.col.f32." PRODUCT ".f32 "
        "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
        : "+f"(sum[0]), "+f"(sum[1]), "+f"(sum[2]), "+f"(sum[3])
        : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

DEVICE float power_of_two(float x) {
    float y;
    asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE float logarithm(float x) {  // to base 2
    float y;
    asm("lg2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
    return y;
}

DEVICE uint16_t as_float16(float x) {
    uint16_t y;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

DEVICE uint16_t as_bfloat16(float x) {
    uint16_t y;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(y) : "f"(x));
    return y;
}

DEVICE uint16_t rounded(float x) {  // as products take it
    return BF16 && !FLOAT8 ? as_bfloat16(x) : as_float16(x);
}

DEVICE uint16_t as_output(float x) { return BF16 ? as_bfloat16(x) : as_float16(x); }

DEVICE uint16_t within_float16(float x) { return as_float16(fminf(fmaxf(x, -65504.0f), 65504.0f)); }

DEVICE uint32_t float16_of_bfloat16(uint32_t two) {  // the largest, where they are larger
    const uint32_t low = within_float16(__uint_as_float(two << 16));
    return low | (uint32_t)within_float16(__uint_as_float(two & 0xffff0000u)) << 16;
}

// Four float8 that lie together, as two pairs of float16.
DEVICE void float16_of_float8(uint32_t four, uint32_t& low, uint32_t& high) {
    asm("{ .reg .b16 a, b; mov.b32 {a, b}, %2; "
        "cvt.rn.f16x2.e4m3x2 %0, a; cvt.rn.f16x2.e4m3x2 %1, b; }"
        : "=r"(low), "=r"(high) : "r"(four));
}

// Of two tokens with two features each: the first feature of both, and the second of both.
DEVICE void float16_of_turned_float8(uint32_t four, uint32_t& first, uint32_t& second) {
    float16_of_float8(__byte_perm(four, 0, 0x3120), first, second);
}

DEVICE float uncached(const float* pointer) {  // what other programs have just written
    float value;
    asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(pointer) : "memory");
    return value;
}

DEVICE void uncached_4(float (&values)[4], const float* pointer) {
    asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];"
        : "=f"(values[0]), "=f"(values[1]), "=f"(values[2]), "=f"(values[3])
        : "l"(pointer) : "memory");
}
