// What latent_wgmma.cu needs of a Hopper GPU (sm_90a) beside ptx.cuh: products of warpgroups
// (wgmma), copies of boxes (tensor maps), barriers of some of a block's threads.

#define SWIZZLED_MEMORY(name) extern __shared__ __align__(1024) char name[]

DEVICE int uniform(int x) { return __shfl_sync(~0u, x, 0); }  // which all lanes have alike

DEVICE void barrier_init(void* barrier, int arrivals) {
    asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
        :: "r"(in_shared(barrier)), "r"(arrivals) : "memory");
}

DEVICE void arrive(void* barrier) {
    asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];"
        :: "r"(in_shared(barrier)) : "memory");
}

DEVICE void wait_for_threads(int barrier, int threads) {  // of barriers 1 to 15
    asm volatile("bar.sync %0, %1;" :: "r"(barrier), "r"(threads) : "memory");
}

// What this thread has written to shared memory, for products and copies of boxes.
DEVICE void written_for_products() {
    asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
}

// A tensor map lies in global memory, where the host has written it.
DEVICE void map_is_read(const void* map) {
    asm volatile("fence.proxy.tensormap::generic.acquire.gpu [%0], 128;" :: "l"(map) : "memory");
}

// The box of a page that begins at a feature, rows of 128 bytes in the swizzle of 128 bytes.
DEVICE void copy_box(void* target, const void* map, int feature, int page, void* barrier) {
    asm volatile(
        "cp.async.bulk.tensor.3d.shared::cluster.global.tile.mbarrier::complete_tx::bytes "
        "[%0], [%1, {%2, %3, %4}], [%5];"
        :: "r"(in_shared(target)), "l"(map), "r"(feature), "r"(0), "r"(page),
           "r"(in_shared(barrier)) : "memory");
}

// Sixteen bytes; `wait_for_copies` waits for all that this thread has copied so.
DEVICE void copy_16(void* target, const void* source) {
    asm volatile("cp.async.cg.shared.global [%0], [%1], 16;"
        :: "r"(in_shared(target)), "l"(source) : "memory");
}
DEVICE void wait_for_copies() { asm volatile("cp.async.wait_all;" ::: "memory"); }

DEVICE void zero_16(void* target) { *(uint4*)target = make_uint4(0, 0, 0, 0); }
DEVICE void write_2(void* target, uint32_t low, uint32_t high) {
    *(uint2*)target = make_uint2(low, high);
}
DEVICE void write_4(float* target, const float* source) {
    *(float4*)target = *(const float4*)source;
}

// Registers of sums, of every product that follows, are as the program left them.
DEVICE void before_products() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }

DEVICE void commit_products() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }

template <int LEFT> DEVICE void wait_for_products() {  // of all groups but the last LEFT
    asm volatile("wgmma.wait_group.sync.aligned %0;" :: "n"(LEFT) : "memory");
}

// sum [64, ROWS] = (keep ? sum : 0) + a [64, 16] . b [16, ROWS], by a warpgroup, of sides in shared
// memory: words of 32 bits below HIGH. Sixteen lie together in `b`, and in `a` unless it is TURNED:
// there 64 do. A lane of warp w has of `sum` what it has of a product [16, 8] of ptx.cuh: of rows
// 16 w to 16 w + 15, eight columns after eight.
#define WGMMA(n, sums, a, b, keep, turned, high) \
    "{ .reg .pred keep; .reg .b64 a, b; setp.ne.b32 keep, " keep ", 0; " \
    "mov.b64 a, {" a ", " high "}; mov.b64 b, {" b ", " high "}; " \
    "wgmma.mma_async.sync.aligned.m64n" n "k16.f32." PRODUCT " {" sums "}, a, b, " \
    "keep, 1, 1, " turned ", 0; }"
#define FOUR_SUMS(i) "+f"(sum[i]), "+f"(sum[i + 1]), "+f"(sum[i + 2]), "+f"(sum[i + 3])
#define SIDES "r"(a), "r"(b), "r"((int)keep), "n"(TURNED), "n"(HIGH)
#define EIGHT_NAMES "%0, %1, %2, %3, %4, %5, %6, %7"
template <int TURNED, uint32_t HIGH>
DEVICE void multiply_tiles(float (&sum)[ROWS / 2], uint32_t a, uint32_t b, bool keep) {
#if ROWS == 8
    asm volatile(WGMMA("8", "%0, %1, %2, %3", "%4", "%5", "%6", "%7", "%8")
        : FOUR_SUMS(0) : SIDES);
#elif ROWS == 16
    asm volatile(WGMMA("16", EIGHT_NAMES, "%8", "%9", "%10", "%11", "%12")
        : FOUR_SUMS(0), FOUR_SUMS(4) : SIDES);
#elif ROWS == 24
    asm volatile(WGMMA("24", EIGHT_NAMES ", %8, %9, %10, %11", "%12", "%13", "%14", "%15", "%16")
        : FOUR_SUMS(0), FOUR_SUMS(4), FOUR_SUMS(8) : SIDES);
#else
#error "a warpgroup's product has 8, 16 or 24 rows here"
#endif
}
