// Runs latent_wgmma.cu on a CPU, behind cuda_on_cpu.h: what hopper.cuh gives.
//
// Products and copies of boxes see a shared memory of their own, to which what threads write comes
// by `written_for_products` alone. A product reads it through its descriptors, sooner or as late as
// it is waited for, drawn at random; until then its sums are not numbers. So descriptors that are
// wrong show, and what is overwritten, read or changed too early. What a warpgroup does together is
// done by each thread for its own sums; a warp's lanes must agree on it.

#include <array>
#include <map>

#define SWIZZLED_MEMORY(name) SHARED_MEMORY(name)
typedef std::array<float, ROWS / 2> Sums;

struct Product { float* sums; uint64_t a, b; bool keep, turned, done; };
struct Products {  // a thread's that it has not waited for
    std::vector<std::vector<Product>> groups = {{}};  // the last is open
    std::map<float*, Sums> hidden;
    bool fenced = false, reads_maps = false;
    std::vector<std::pair<void*, const void*>> copied;
};
struct Map { uint64_t address, sizes[3], strides[2]; uint32_t box[3]; };

static char async_view[sizeof shared_memory];
static std::map<int, Products> products_of_threads;
static int arrived[16];
static long turns[16];

static void require(bool holds, const char* what) {
    if (!holds) fprintf(stderr, "latent_wgmma.cu: %s\n", what), abort();
}

static const bool told_apart = [] {
    async_memory = async_view;
    begin_block = [] {
        memset(async_view, 0xff, sizeof async_view);
        for (const auto& own : products_of_threads)
            require(own.second.hidden.empty(), "a thread ends with products under way");
        products_of_threads.clear();
    };
    return true;
}();

DEVICE int uniform(int x) { return x; }
DEVICE void arrive(void* barrier) {
    require(((Barrier*)barrier)->pending > 0, "more arrivals than a barrier waits for");
    ((Barrier*)barrier)->pending--;
    end_phase((Barrier*)barrier);
}
DEVICE void wait_for_threads(int barrier, int threads) {
    require(barrier > 0 && barrier < 16, "no such barrier");
    const long turn = turns[barrier];
    if (++arrived[barrier] == threads) arrived[barrier] = 0, turns[barrier]++;
    while (turns[barrier] == turn) give_way();
}
DEVICE void written_for_products() { memcpy(async_view, shared_memory, sizeof shared_memory); }
DEVICE void map_is_read(const void*) { products_of_threads[threadIdx.x].reads_maps = true; }
DEVICE void copy_16(void* target, const void* source) {
    products_of_threads[threadIdx.x].copied.push_back({target, source});
}
DEVICE void wait_for_copies() {
    for (const auto& copy : products_of_threads[threadIdx.x].copied)
        memcpy(copy.first, copy.second, 16);
    products_of_threads[threadIdx.x].copied.clear();
}
DEVICE void zero_16(void* target) { memset(target, 0, 16); }
DEVICE void write_2(void* target, uint32_t low, uint32_t high) {
    memcpy(target, &low, 4), memcpy((char*)target + 4, &high, 4);
}
DEVICE void write_4(float* target, const float* source) { memcpy(target, source, 16); }

// The driver's function: which arguments a map of half precision has.
extern "C" int cuTensorMapEncodeTiled(
    void* map, int type, uint32_t rank, void* address, const uint64_t* sizes,
    const uint64_t* strides, const uint32_t* box, const uint32_t* steps, int interleave,
    int swizzle, int promotion, int fill) {
    const bool known = (type == 6 || type == 9) && rank == 3 && !interleave && swizzle == 3
        && promotion >= 0 && promotion <= 3 && !fill;
    const bool fits = (uint64_t)address % 16 == 0 && strides[0] % 16 == 0 && strides[1] % 16 == 0
        && box[0] * 2 <= 128 && box[1] <= 256 && (uint64_t)map % 64 == 0;
    if (!known || !fits || steps[0] != 1 || steps[1] != 1 || steps[2] != 1) return 1;
    Map made = {(uint64_t)address, {sizes[0], sizes[1], sizes[2]}, {strides[0], strides[1]},
        {box[0], box[1], box[2]}};
    memcpy(map, &made, sizeof made);
    return 0;
}
DEVICE void copy_box(void* target, const void* of, int feature, int page, void* barrier) {
    const Map& map = *(const Map*)of;
    require(products_of_threads[threadIdx.x].reads_maps, "a tensor map is read behind no fence");
    require(map.box[2] == 1 && feature + map.box[0] <= map.sizes[0] && page < map.sizes[2]
        && map.box[1] <= map.sizes[1] && ((char*)target - shared_memory) % 1024 == 0,
        "a box lies outside of its tensor, or not where it may");
    const char* source = (const char*)map.address + page * map.strides[1] + feature * 2;
    copies.push_back({(char*)target, source, (int)map.box[0] * 2, (Barrier*)barrier,
        (int)map.box[1], (int)map.strides[0], true});
}

DEVICE uint32_t in_shared(const void* pointer) { return (const char*)pointer - shared_memory; }

// Element (outer, inner) of a side as its descriptor says: PTX ISA, "Matrix Descriptor Format" and
// "Canonical Layouts" of wgmma. `turned`: outer is M, which lies together, and inner K.
static float element(uint64_t side, int outer, int inner, bool turned) {
    require(side >> 62 == 1 && (side >> 49 & 7) == 0, "not the swizzle of 128 bytes");
    const uint64_t stride = (side >> 32 & 0x3fff) << 4, leading = (side >> 16 & 0x3fff) << 4;
    const int row = turned ? inner : outer, along = turned ? outer : inner;
    // Along its rows a turned side goes on `leading` bytes later, after 64 elements.
    uint64_t at = (side & 0x3fff) << 4;
    at += row / 8 * stride + row % 8 * 128 + along / 64 * leading + along % 64 * 2;
    at ^= (at >> 7 & 7) << 4;
    require(at + 2 <= sizeof async_view, "a side lies outside of shared memory");
    uint16_t bits;
    memcpy(&bits, async_view + at, 2);
    return of_operand(bits, 0);
}
static void compute(Product& product, Sums& sums) {
    const int warp = threadIdx.x / 32 % 4, lane = threadIdx.x % 32;
    float a[2][16], b[ROWS / 4][16];
    for (int k = 0; k < 16; k++) {
        for (int half = 0; half < 2; half++)
            a[half][k] = element(product.a, 16 * warp + lane / 4 + 8 * half, k, product.turned);
        for (int n = 0; n < ROWS / 4; n++)
            b[n][k] = element(product.b, n / 2 * 8 + lane % 4 * 2 + n % 2, k, false);
    }
    for (int i = 0; i < ROWS / 2; i++) {
        float sum = product.keep ? sums[i] : 0.0f;
        for (int k = 0; k < 16; k++) sum += a[i / 2 % 2][k] * b[i / 4 * 2 + i % 2][k];
        sums[i] = sum;
    }
    product.done = true;
}

static Products& own_products() { return products_of_threads[threadIdx.x]; }
DEVICE void before_products() { own_products().fenced = true; }
template <int TURNED, uint32_t HIGH>
DEVICE void multiply_tiles(float (&sum)[ROWS / 2], uint32_t low_a, uint32_t low_b, bool keep) {
    const uint64_t high = (uint64_t)HIGH << 32, a = high | low_a, b = high | low_b;
    Products& own = own_products();
    if (!own.hidden.count(sum)) {
        require(own.fenced, "sums of a product may still change: no fence");
        memcpy(own.hidden[sum].data(), sum, sizeof sum);
    }
    memset(sum, 0xff, sizeof sum);
    own.groups.back().push_back({sum, a, b, keep, TURNED != 0, false});
    const bool is_next = own.groups.size() == 1 && own.groups[0].size() == 1;
    if (is_next && draw() % 2) compute(own.groups[0][0], own.hidden[sum]);
}
DEVICE void commit_products() {
    Lane lane = {};
    for (const Product& product : own_products().groups.back())  // in 16 bytes, below 2^14
        lane.number += (product.a & 0x3fff) + (product.b & 0x3fff);
    const Lane* lanes = together(lane);
    for (int i = 0; i < 32; i++) require(lanes[i].number == lane.number, "a warp's sides differ");
    own_products().groups.push_back({});
}
template <int LEFT> DEVICE void wait_for_products() {
    Products& own = own_products();
    own.fenced = false;
    while ((int)own.groups.size() > LEFT + 1) {
        std::vector<Product> group = own.groups.front();
        own.groups.erase(own.groups.begin());
        for (Product& product : group)
            if (!product.done) compute(product, own.hidden[product.sums]);
        for (Product& product : group) {
            bool is_used = false;
            for (const auto& later : own.groups)
                for (const Product& other : later) is_used |= other.sums == product.sums;
            if (is_used || !own.hidden.count(product.sums)) continue;
            memcpy(product.sums, own.hidden[product.sums].data(), sizeof(Sums));
            own.hidden.erase(product.sums);
        }
    }
}
