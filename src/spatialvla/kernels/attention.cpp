// Attention on a CPU: softmax(softcap(q · kᵀ · scale) + bias) · v in bfloat16, with sums and exponentials in float32.
//
// The keys and values of a head are packed into panels, as if they were weights, which costs as much as one or two rows
// of queries. Six rows of queries at a time then meet the keys, become weights, and meet the values, while their scores
// stay in the first-level cache. All query heads of one key head share its panels.

#include "functions.h"
#include "operators.h"
#include "panels.h"

#include <limits>

namespace {

using Shape = AttentionShape;

constexpr long FEW = 4;                 // queries of a key head for which panels are not worth packing
constexpr long MORE_THREADS = 1 << 18;  // products of numbers below which one thread is as fast as two

long up(long number, long multiple) { return (number + multiple - 1) / multiple * multiple; }

// 16 rows of 16 pairs -> 16 pairs of 16 rows.
void transpose(__m512i (&r)[16]) {
  __m512i t[16];
#pragma GCC unroll 8
  for (int i = 0; i < 16; i += 2) {
    t[i] = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    t[i + 1] = _mm512_unpackhi_epi32(r[i], r[i + 1]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    r[i] = _mm512_unpacklo_epi64(t[i], t[i + 2]);
    r[i + 1] = _mm512_unpackhi_epi64(t[i], t[i + 2]);
    r[i + 2] = _mm512_unpacklo_epi64(t[i + 1], t[i + 3]);
    r[i + 3] = _mm512_unpackhi_epi64(t[i + 1], t[i + 3]);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    t[i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0x88);
    t[4 + i] = _mm512_shuffle_i32x4(r[i], r[4 + i], 0xdd);
    t[8 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0x88);
    t[12 + i] = _mm512_shuffle_i32x4(r[8 + i], r[12 + i], 0xdd);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; i++) {
    r[i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0x88);
    r[4 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0x88);
    r[8 + i] = _mm512_shuffle_i32x4(t[i], t[8 + i], 0xdd);
    r[12 + i] = _mm512_shuffle_i32x4(t[4 + i], t[12 + i], 0xdd);
  }
}

// Keys (S, H) as panels of 64 keys: (panels, H / 2, PANEL, 2), zero where H or S end.
void pack_keys(const Half* k, long stride, long S, long H, Half* packed) {
  const long depth = up(H, 2);
  for (long s = 0; s < S; s += 16) {
    Half* panel = packed + s / PANEL * PANEL * depth + s % PANEL * 2;
    for (long h = 0; h < H; h += 32) {
      const __mmask32 mask = H - h >= 32 ? ~0u : (1u << (H - h)) - 1;
      __m512i rows[16];
#pragma GCC unroll 16
      for (long i = 0; i < 16; i++)
        rows[i] = s + i < S ? _mm512_maskz_loadu_epi16(mask, k + (s + i) * stride + h) : _mm512_setzero_si512();
      transpose(rows);
      const long pairs = std::min(16L, (depth - h) / 2);
      for (long i = 0; i < pairs; i++) _mm512_storeu_si512(panel + (h + 2 * i) * PANEL, rows[i]);
    }
  }
}

// Values (S, H) as panels of 64 outputs: (panels, S / 2, PANEL, 2), zero where H or S end.
void pack_values(const Half* v, long stride, long S, long H, Half* packed) {
  alignas(64) uint16_t order[64];
  for (int i = 0; i < 32; i++) order[2 * i] = i, order[2 * i + 1] = 32 + i;
  const __m512i low = _mm512_load_si512(order), high = _mm512_load_si512(order + 32);
  const long depth = up(S, 2);
  for (long s = 0; s < S; s += 2)
    for (long h = 0; h < H; h += 32) {
      const __mmask32 mask = H - h >= 32 ? ~0u : (1u << (H - h)) - 1;
      __m512i a = _mm512_maskz_loadu_epi16(mask, v + s * stride + h);
      __m512i b = s + 1 < S ? _mm512_maskz_loadu_epi16(mask, v + (s + 1) * stride + h) : _mm512_setzero_si512();
      Half* to = packed + h / PANEL * PANEL * depth + s * PANEL + h % PANEL * 2;
      _mm512_storeu_si512(to, _mm512_permutex2var_epi16(a, low, b));
      _mm512_storeu_si512(to + 32, _mm512_permutex2var_epi16(a, high, b));
    }
}

// Scores of one row, `step` apart from panel to panel -> weights that are not divided by their sum, which is returned.
template <bool Capped, typename Bias>
float soften(float* scores, long step, const Bias* bias, long S, float scale, float softcap, Half* weights) {
  const __m512 factor = _mm512_set1_ps(Capped ? scale / softcap : scale), cap = _mm512_set1_ps(softcap);
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  __m512 largest = lowest;
  for (long s = 0; s < S; s += 16) {
    const __mmask16 mask = first(S - s);
    float* at = scores + s / PANEL * step + s % PANEL;
    __m512 score = _mm512_mul_ps(_mm512_loadu_ps(at), factor);
    if (Capped) score = _mm512_mul_ps(hyperbolic_tangent(score), cap);
    if (bias) score = _mm512_add_ps(score, load(bias + s, mask));
    score = _mm512_mask_mov_ps(lowest, mask, score);
    _mm512_storeu_ps(at, score);
    largest = _mm512_max_ps(largest, score);
  }
  const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
  __m512 sum = _mm512_setzero_ps();
  for (long s = 0; s < S; s += 16) {
    const __m512 score = _mm512_loadu_ps(scores + s / PANEL * step + s % PANEL);
    const __m512 weight = _mm512_maskz_mov_ps(first(S - s), exponential(_mm512_sub_ps(score, top)));
    sum = _mm512_add_ps(sum, weight);
    store(weights + s, 0xffff, weight);
  }
  return _mm512_reduce_add_ps(sum);
}

// What one thread works with: the panels of a key head, and some rows of queries.
template <typename Bias>
struct Worker {
  const Shape& shape;
  const Half *q, *keys, *values;
  const Bias* bias;
  Half* y;
  float scale, softcap;

  // The queries from `t` on, ROWS at most, of one head.
  void rows(long b, long n, long t, long count, float* scores, Half* query, Half* weights) const {
    const long S = shape.keys, H = shape.size, width = up(H, 2), depth = up(S, 2), padded = up(S, PANEL);
    float sums[ROWS];
    const Half* x = q + b * shape.q[0] + n * shape.q[1] + t * shape.q[2];
    for (long m = 0; m < count; m++) {
      memcpy(query + m * width, x + m * shape.q[2], H * sizeof(Half));
      if (H < width) query[m * width + H] = 0;
    }
    for (long s = 0; s < S; s += PANEL)
      panel(query, width, keys + s * width, width, count, S - s, scores + s * ROWS);
    for (long m = 0; m < count; m++)
      sums[m] = weigh(b, n, t + m, scores + m * PANEL, ROWS * PANEL, weights + m * padded);
    for (long h = 0; h < H; h += PANEL) {
      panel(weights, padded, values + h * depth, depth, count, H - h, scores);
      for (long m = 0; m < count; m++) {
        const __m512 share = _mm512_set1_ps(1.0f / sums[m]);
        Half* to = y + ((b * shape.queries + t + m) * shape.heads + n) * H + h;
        for (long i = 0; i < std::min(PANEL, H - h); i += 16)
          store(to + i, first(H - h - i), _mm512_mul_ps(_mm512_loadu_ps(scores + m * PANEL + i), share));
      }
    }
  }

  // The R queries of a key head: keys and values are read where they are, once, which for few is less than packing.
  template <int R>
  void few(long b, long head, const Half* k, const Half* v, float* scores, Half* weights) const {
    const long S = shape.keys, H = shape.size, T = shape.queries, padded = up(S, PANEL);
    const Half* x[R];
    Half* to[R];
    float shares[R];
    for (int r = 0; r < R; r++) {
      const long n = head * (R / T) + r / T, t = r % T;
      x[r] = q + b * shape.q[0] + n * shape.q[1] + t * shape.q[2];
      to[r] = y + ((b * T + t) * shape.heads + n) * H;
    }
    for (long s = 0; s < S; s++) {
      __m512 sums[R] = {};
      for (long h = 0; h < H; h += 32) {
        const __mmask32 mask = H - h >= 32 ? ~0u : (1u << (H - h)) - 1;
        const __m512bh key = (__m512bh)_mm512_maskz_loadu_epi16(mask, k + s * shape.k[2] + h);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++)
          sums[r] = _mm512_dpbf16_ps(sums[r], key, (__m512bh)_mm512_maskz_loadu_epi16(mask, x[r] + h));
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) scores[r * padded + s] = _mm512_reduce_add_ps(sums[r]);
    }
    for (int r = 0; r < R; r++)
      shares[r] = 1 / weigh(b, head * (R / T) + r / T, r % T, scores + r * padded, PANEL, weights + r * padded);
    for (long h = 0; h < H; h += 32) {
      const __mmask16 low = first(H - h), high = first(H - h - 16);
      __m512 sums[R][2] = {};
      for (long s = 0; s < S; s++) {
        const Half* from = v + s * shape.v[2] + h;
        const __m512 left = load(from, low), right = load(from + 16, high);
#pragma GCC unroll 4
        for (int r = 0; r < R; r++) {
          const __m512 weight = _mm512_set1_ps(widened(weights[r * padded + s]));
          sums[r][0] = _mm512_fmadd_ps(weight, left, sums[r][0]);
          sums[r][1] = _mm512_fmadd_ps(weight, right, sums[r][1]);
        }
      }
#pragma GCC unroll 4
      for (int r = 0; r < R; r++) {
        store(to[r] + h, low, _mm512_mul_ps(sums[r][0], _mm512_set1_ps(shares[r])));
        store(to[r] + h + 16, high, _mm512_mul_ps(sums[r][1], _mm512_set1_ps(shares[r])));
      }
    }
  }

  // Scores of one query -> weights, whose sum is returned.
  float weigh(long b, long n, long t, float* scores, long step, Half* to) const {
    const Bias* row = bias ? bias + b * shape.bias[0] + n * shape.bias[1] + t * shape.bias[2] : nullptr;
    return softcap > 0 ? soften<true>(scores, step, row, shape.keys, scale, softcap, to)
                       : soften<false>(scores, step, row, shape.keys, scale, softcap, to);
  }

  static void panel(const Half* x, long stride, const Half* w, long depth, long count, long outputs, float* sums) {
    std::fill(sums, sums + count * PANEL, 0.0f);
    with_rows_and_outputs(count, outputs, [&](auto M, auto V) { multiply<M, V>(x, stride, w, depth, sums); });
  }
};

template <typename Bias>
void attend(const Half* q, const Half* k, const Half* v, const Bias* bias, Half* y, const Shape& shape, float scale,
            float softcap, int threads) {
  const long S = shape.keys, H = shape.size, T = shape.queries, group = shape.heads / shape.key_heads;
  const long pairs = shape.batch * shape.key_heads, padded = up(S, PANEL);
  if (shape.batch * shape.heads * T * S * H < MORE_THREADS) threads = 1;
  // Threads share a head only where there are not enough heads, since each of them packs its keys and values.
  const long parts = std::max(1L, std::min((threads + pairs - 1) / pairs, T / (4 * ROWS)));
  const long part = up((T + parts - 1) / parts, ROWS);
#pragma omp parallel num_threads(threads) if (threads > 1)
  {
    static thread_local Scratch<Half> halves;
    static thread_local Scratch<float> floats;
    Half* keys = halves.get(padded * up(H, 64) + up(S, 64) * up(H, PANEL) + ROWS * up(H, 64) + ROWS * padded);
    Half* values = keys + padded * up(H, 64);
    Half* query = values + up(S, 64) * up(H, PANEL);
    Half* weights = query + ROWS * up(H, 64);
    float* scores = floats.get(padded * ROWS);
    Worker<Bias> worker{shape, q, keys, values, bias, y, scale, softcap};
#pragma omp for collapse(2) schedule(dynamic)
    for (long pair = 0; pair < pairs; pair++)
      for (long p = 0; p < parts; p++) {
        const long b = pair / shape.key_heads, head = pair % shape.key_heads;
        const Half* its_keys = k + b * shape.k[0] + head * shape.k[1];
        const Half* its_values = v + b * shape.v[0] + head * shape.v[1];
        if (group * T <= FEW) {
          with_rows(group * T, [&](auto R) { worker.template few<R>(b, head, its_keys, its_values, scores, weights); });
          continue;
        }
        pack_keys(its_keys, shape.k[2], S, H, keys);
        pack_values(its_values, shape.v[2], S, H, values);
        const long end = std::min(T, (p + 1) * part);
        for (long n = head * group; n < (head + 1) * group; n++)
          for (long t = p * part; t < end; t += ROWS)
            worker.rows(b, n, t, std::min(ROWS, end - t), scores, query, weights);
      }
  }
}

}  // namespace

// y: (B, T, N * H). bias: of float32 where `wide`, else bfloat16; may be null. softcap: 0 for none.
extern "C" void attention(const Half* q, const Half* k, const Half* v, const void* bias, Half* y, const Shape* shape,
                          float scale, float softcap, int wide, int threads) {
  if (wide)
    attend(q, k, v, (const float*)bias, y, *shape, scale, softcap, threads);
  else
    attend(q, k, v, (const Half*)bias, y, *shape, scale, softcap, threads);
}
