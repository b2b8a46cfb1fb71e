// Runs latent_attention.cu on a CPU: what ptx.cuh gives, by threads that take turns.
//
// Every thread of a block is a fiber. What a warp does together (products, matrices, shuffles) is
// done once all of its lanes have brought their part; which fiber goes on next is drawn at random,
// so that a missing barrier shows. Copies to shared memory arrive later than they were asked for.
// Blocks run one after the other, in an order that is drawn: what fences between them are for does not show.

#include <math.h>
#include <stdint.h>
#include <string.h>
#include <ucontext.h>

#include <algorithm>
#include <functional>
#include <random>
#include <vector>

using std::max;
using std::min;
#define DEVICE static inline
#define KERNEL static
#define SHARED_MEMORY(name) char* name = shared_memory
#define UNROLL
#define threadIdx (running->index)
#define blockIdx block_index

struct Index { int x, y; };
struct Lane { const void* row; uint32_t a[4], b[2]; float number; };
struct Warp { int arrived = 0; long turn = 0; Lane lanes[2][32]; };
struct Fiber { ucontext_t context; Index index; bool ended = false; std::vector<char> stack; };
struct Barrier { int bytes; uint8_t expected, pending; uint16_t phase; };  // that it waits for
struct Copy {  // of rows that lie `stride` bytes apart; `swizzled`: as tensor maps say
    char* target;
    const char* source;
    int bytes;
    Barrier* barrier;
    int rows = 1, stride = 0;
    bool swizzled = false;
};

static Fiber* running;
static Index block_index;
static ucontext_t scheduler;
static std::mt19937 draw(0);
static std::vector<Warp> warps;
static std::vector<Copy> copies;
static int block_arrived, block_any, block_said;
static long block_turn;
alignas(1024) static char shared_memory[227 << 10];

static void give_way() { swapcontext(&running->context, &scheduler); }

// All lanes' parts, once the whole warp has brought them.
static Lane* together(const Lane& own) {
    Warp& warp = warps[threadIdx.x / 32];
    const long turn = warp.turn;
    warp.lanes[turn % 2][threadIdx.x % 32] = own;
    if (++warp.arrived == 32) warp.arrived = 0, warp.turn++;
    while (warp.turn == turn) give_way();
    return warp.lanes[turn % 2];
}

static int __syncthreads_or(int said) {
    const long turn = block_turn;
    block_any |= said;
    if (++block_arrived == (int)warps.size() * 32)
        block_arrived = 0, block_said = block_any, block_any = 0, block_turn++;
    while (block_turn == turn) give_way();
    return block_said;
}
static void __syncthreads() { __syncthreads_or(0); }
static void __syncwarp() { together({}); }
static void __threadfence() {}
static int atomicXor(int* at, int bits) { *at ^= bits; return *at ^ bits; }
static int atomicOr(int* at, int bits) { const int was = *at; *at |= bits; return was; }
static int atomicAdd(int* at, int more) { *at += more; return *at - more; }
static int __any_sync(uint32_t, int said) {
    Lane own = {};
    own.number = said != 0;
    const Lane* lanes = together(own);
    return std::any_of(lanes, lanes + 32, [](const Lane& lane) { return lane.number; });
}
static float __shfl_xor_sync(uint32_t, float number, int other) {
    Lane own = {};
    own.number = number;
    return together(own)[threadIdx.x % 32 ^ other].number;
}

DEVICE void barrier_init(void* barrier, int arrivals) {
    *(Barrier*)barrier = {0, (uint8_t)arrivals, (uint8_t)arrivals, 0};
}
DEVICE void barrier_init(void* barrier) { barrier_init(barrier, 1); }
DEVICE void barriers_are_ready() {}
static void end_phase(Barrier* barrier) {  // if nothing is waited for any more
    if (barrier->pending == 0 && barrier->bytes == 0)
        barrier->pending = barrier->expected, barrier->phase++;
}
DEVICE void expect_bytes(void* barrier, int bytes) {
    ((Barrier*)barrier)->pending--;
    ((Barrier*)barrier)->bytes += bytes;
    end_phase((Barrier*)barrier);
}
DEVICE void copy_bytes(void* target, const void* source, int bytes, void* barrier) {
    copies.push_back({(char*)target, (const char*)source, bytes, (Barrier*)barrier});
}
DEVICE void wait_for(void* barrier, int parity) {
    while (((Barrier*)barrier)->phase % 2 == parity) give_way();
}
static char* async_memory;  // what copies and products see, where that is told apart
static void arrive(const Copy& copy) {
    for (int at = 0; at < copy.rows * copy.bytes; at += 16) {
        const char* source = copy.source + (int64_t)(at / copy.bytes) * copy.stride + at % copy.bytes;
        size_t to = copy.target + at - shared_memory;
        if (copy.swizzled) to ^= (to >> 7 & 7) << 4;
        memcpy(shared_memory + to, source, 16);
        if (async_memory) memcpy(async_memory + to, source, 16);
    }
    copy.barrier->bytes -= copy.rows * copy.bytes;
    end_phase(copy.barrier);
}

static void matrices(uint32_t* a, int count, const void* row, bool turned) {
    Lane own = {};
    own.row = row;
    const Lane* lanes = together(own);
    const int lane = threadIdx.x % 32, group = lane / 4, pair = lane % 4;
    for (int i = 0; i < count; i++) {
        if (turned) {
            const uint16_t* low = (const uint16_t*)lanes[8 * i + 2 * pair].row;
            const uint16_t* high = (const uint16_t*)lanes[8 * i + 2 * pair + 1].row;
            a[i] = low[group] | (uint32_t)high[group] << 16;
        } else {
            a[i] = ((const uint32_t*)lanes[8 * i + group].row)[pair];
        }
    }
}
DEVICE void matrices_4(uint32_t (&a)[4], const void* row) { matrices(a, 4, row, false); }
DEVICE void turned_matrices_4(uint32_t (&a)[4], const void* row) { matrices(a, 4, row, true); }
DEVICE void matrices_2(uint32_t (&a)[2], const void* row) { matrices(a, 2, row, false); }
DEVICE void turned_matrices_2(uint32_t (&a)[2], const void* row) { matrices(a, 2, row, true); }

static float of_bfloat16(uint32_t bits) {
    bits <<= 16;
    float x;
    memcpy(&x, &bits, 4);
    return x;
}
static float of_float16(uint16_t bits) {
    const float fraction = (bits & 1023) / 1024.0f;
    const int power = bits >> 10 & 31;
    return (bits >> 15 ? -1 : 1) * (power ? ldexpf(1 + fraction, power - 15) : ldexpf(fraction, -14));
}
static uint16_t as_bfloat16(float x) {
    uint32_t bits;
    memcpy(&bits, &x, 4);
    return (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
}
static uint16_t as_float16(float x) {  // finite ones, by _Float16
    const _Float16 half = (_Float16)x;
    uint16_t bits;
    memcpy(&bits, &half, 2);
    return bits;
}
static float of_operand(uint32_t two, int half) {
    const uint16_t bits = two >> 16 * half;
    return BF16 && !FLOAT8 ? of_bfloat16(bits) : of_float16(bits);
}
DEVICE uint16_t rounded(float x) { return BF16 && !FLOAT8 ? as_bfloat16(x) : as_float16(x); }
DEVICE uint16_t as_output(float x) { return BF16 ? as_bfloat16(x) : as_float16(x); }
DEVICE uint32_t float16_of_bfloat16(uint32_t two) {
    const auto within = [](float x) { return (uint32_t)as_float16(fminf(fmaxf(x, -65504.0f), 65504.0f)); };
    return within(of_bfloat16(two & 0xffff)) | within(of_bfloat16(two >> 16)) << 16;
}

DEVICE void multiply(float (&sum)[4], const uint32_t (&a)[4], const uint32_t (&b)[2]) {
    Lane own = {};
    memcpy(own.a, a, 16);
    memcpy(own.b, b, 8);
    const Lane* lanes = together(own);
    const int lane = threadIdx.x % 32;
    for (int i = 0; i < 4; i++) {
        const int row = lane / 4 + i / 2 * 8, column = lane % 4 * 2 + i % 2;
        for (int k = 0; k < 16; k++)
            sum[i] += of_operand(lanes[row % 8 * 4 + k % 8 / 2].a[row / 8 + k / 8 * 2], k % 2)
                * of_operand(lanes[column * 4 + k % 8 / 2].b[k / 8], k % 2);
    }
}

DEVICE float power_of_two(float x) { return exp2f(x); }
DEVICE float logarithm(float x) { return log2f(x); }
DEVICE float uncached(const float* pointer) { return *pointer; }
DEVICE void uncached_4(float (&values)[4], const float* pointer) { memcpy(values, pointer, 16); }

static uint16_t float16_of_one_float8(uint8_t bits) {
    const int power = bits >> 3 & 15;
    const float fraction = (bits & 7) / 8.0f;
    const float x = power ? ldexpf(1 + fraction, power - 7) : ldexpf(fraction, -6);
    return as_float16(bits >> 7 ? -x : x);
}
DEVICE void float16_of_float8(uint32_t four, uint32_t& low, uint32_t& high) {
    low = float16_of_one_float8(four) | (uint32_t)float16_of_one_float8(four >> 8) << 16;
    high = float16_of_one_float8(four >> 16) | (uint32_t)float16_of_one_float8(four >> 24) << 16;
}
DEVICE void float16_of_turned_float8(uint32_t four, uint32_t& first, uint32_t& second) {
    const uint32_t inner = (four >> 8 & 0xff) << 16 | (four >> 16 & 0xff) << 8;
    float16_of_float8((four & 0xff0000ffu) | inner, first, second);
}

static std::function<void()> body, begin_block = [] {};
static void begin_fiber() {
    body();
    running->ended = true;
    give_way();
}

// Runs `kernel` for every block of the grid, one after the other in any order.
static void run_grid(int columns, int rows, int threads, std::function<void()> kernel) {
    body = kernel;
    std::vector<Fiber> fibers(threads);
    std::vector<int> order(columns * rows);
    for (int i = 0; i < columns * rows; i++) order[i] = i;
    std::shuffle(order.begin(), order.end(), draw);
    for (int i : order) {
        block_index = {i % columns, i / columns};
        memset(shared_memory, 0xff, sizeof shared_memory);  // not a number, in every type
        begin_block();
        warps.assign(threads / 32, Warp());
        std::vector<Fiber*> left;
        for (int thread = 0; thread < threads; thread++) {
            Fiber& fiber = fibers[thread];
            fiber.stack.resize(64 << 10);
            fiber.ended = false;
            fiber.index = {thread, 0};
            getcontext(&fiber.context);
            fiber.context.uc_stack.ss_sp = fiber.stack.data();
            fiber.context.uc_stack.ss_size = fiber.stack.size();
            makecontext(&fiber.context, begin_fiber, 0);
            left.push_back(&fiber);
        }
        while (!left.empty()) {
            if (!copies.empty() && draw() % 64 == 0) {
                const int which = draw() % copies.size();
                arrive(copies[which]);
                copies.erase(copies.begin() + which);
            }
            const int chosen = draw() % left.size();
            running = left[chosen];
            swapcontext(&scheduler, &running->context);
            if (running->ended) left.erase(left.begin() + chosen);
        }
    }
}
