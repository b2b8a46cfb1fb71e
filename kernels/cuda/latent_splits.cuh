// What both kernels for attention to hidden states have in common: the part of the work that a
// program takes. WARPS, ROWS, TOKENS, LEAST_TOKENS: see there.

constexpr int THREADS = 32 * WARPS;
constexpr float MOST_POWER = 8.0f;
constexpr float LOG2_E = 1.4426950408889634f;

DEVICE int divided(int a, int b) { return (a + b - 1) / b; }

// One program takes one split of a sequence's tokens for one block of its rows: the heads of the
// first query, then those of the next. Splits leave normalised sums in `partial`
// [split, token, head, partial_row] and the logarithms (to base 2) of their totals in
// `partial_lse`, for those that arrive later to join them.
struct Part {
    int split, splits, sequence, block, heads;
    int first_token, rows;  // of queries; of the sequence, from this block on
    int begin, end, tiles;  // of the sequence's tokens
};

// Where a row of the program's lies among the heads of all tokens.
DEVICE int64_t row_of_all(const Part& part, int row) {
    const int place = part.block * ROWS + row;
    return (int64_t)(part.first_token + place / part.heads) * part.heads + place % part.heads;
}

// The launched programs cover the most rows and splits: those of a part without any have no work.
DEVICE bool is_empty(const Part& part) { return part.rows <= 0 || part.split >= part.splits; }

DEVICE Part part_of_program(
    const int* cu_seqlens_q, const int* kv_lens, int heads, int q_blocks, int most_splits) {
    Part part;
    part.split = blockIdx.y, part.heads = heads;
    part.sequence = blockIdx.x / q_blocks, part.block = blockIdx.x % q_blocks;
    part.first_token = cu_seqlens_q[part.sequence];
    part.rows = (cu_seqlens_q[part.sequence + 1] - part.first_token) * heads - part.block * ROWS;
    const int length = kv_lens[part.sequence];
    part.splits = max(min(divided(length, LEAST_TOKENS), most_splits), 1);
    const int per_split = divided(divided(length, part.splits), TOKENS) * TOKENS;
    part.begin = part.split * per_split, part.end = min(length, part.begin + per_split);
    part.tiles = part.begin < part.end ? divided(part.end - part.begin, TOKENS) : 0;
    return part;
}
