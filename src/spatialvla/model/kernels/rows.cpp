// Products of few rows with a large weight, which is what a decode step does: y = x · wᵀ, as fast as w can be read.
//
// x (M, K) and y (M, N) are bfloat16, w (N, K) is bfloat16, or int8 with a float32 scale for each of its N rows.
// Sums are float32. Needs AVX-512 with BF16. One thread takes a stretch of the N rows and reads it once, from its
// beginning to its end, which the prefetcher of the processor understands best.

#include <immintrin.h>
#include <omp.h>

#include <cstdint>

namespace {

constexpr int BLOCK = 6;          // rows of x whose sums fit into the registers beside four rows of w
constexpr long PREFETCH = 4096;   // numbers of w that one stream is fetched ahead
constexpr long SMALL = 8192;      // numbers of x: half of a first-level cache

using Half = uint16_t;

inline __m512bh load(const Half* p) { return (__m512bh)_mm512_loadu_si512(p); }
inline __m512bh load(const Half* p, __mmask32 mask) { return (__m512bh)_mm512_maskz_loadu_epi16(mask, p); }

// |w| is at most 127, which bfloat16 holds exactly.
inline __m512bh widen(__m256i bytes) {
  __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(bytes)));
  __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(bytes, 1)));
  return _mm512_cvtne2ps_pbh(high, low);
}
inline __m512bh load(const int8_t* p) { return widen(_mm256_loadu_si256((const __m256i*)p)); }
inline __m512bh load(const int8_t* p, __mmask32 mask) { return widen(_mm256_maskz_loadu_epi8(mask, p)); }

inline Half rounded(float value) {
  __m128bh half = _mm_cvtneps_pbh(_mm_set_ss(value));
  return ((const Half*)&half)[0];
}

// R rows of w with M rows of x.
template <int M, int R, typename Weight>
void tile(const Half* x, const Weight* w, const float* scale, Half* y, long N, long K) {
  __m512 sums[M][R];
  for (int m = 0; m < M; m++)
    for (int r = 0; r < R; r++) sums[m][r] = _mm512_setzero_ps();
  long k = 0;
  for (; k + 32 <= K; k += 32) {
    __m512bh weights[R];
    for (int r = 0; r < R; r++) {
      weights[r] = load(w + r * K + k);
      // Several streams are too short for the processor to foresee: each fetches what its successor will read.
      _mm_prefetch((const char*)(w + r * K + k + (R > 1 ? R * K : PREFETCH)), _MM_HINT_T1);
    }
    for (int m = 0; m < M; m++) {
      __m512bh row = load(x + m * K + k);
      for (int r = 0; r < R; r++) sums[m][r] = _mm512_dpbf16_ps(sums[m][r], weights[r], row);
    }
  }
  if (k < K) {
    __mmask32 mask = (__mmask32)((1u << (K - k)) - 1);
    for (int m = 0; m < M; m++)
      for (int r = 0; r < R; r++)
        sums[m][r] = _mm512_dpbf16_ps(sums[m][r], load(w + r * K + k, mask), load(x + m * K + k, mask));
  }
  for (int m = 0; m < M; m++)
    for (int r = 0; r < R; r++) {
      float sum = _mm512_reduce_add_ps(sums[m][r]);
      y[m * N + r] = rounded(scale ? sum * scale[r] : sum);
    }
}

template <int R, typename Weight>
void rows(const Half* x, const Weight* w, const float* scale, Half* y, long M, long N, long K) {
  for (; M > 0; M -= BLOCK, x += BLOCK * K, y += BLOCK * N) switch (M) {
      case 1: tile<1, R>(x, w, scale, y, N, K); break;
      case 2: tile<2, R>(x, w, scale, y, N, K); break;
      case 3: tile<3, R>(x, w, scale, y, N, K); break;
      case 4: tile<4, R>(x, w, scale, y, N, K); break;
      case 5: tile<5, R>(x, w, scale, y, N, K); break;
      default: tile<BLOCK, R>(x, w, scale, y, N, K);
    }
}

template <typename Weight>
void product(const Half* x, const Weight* w, const float* scale, Half* y, long M, long N, long K, int threads) {
#pragma omp parallel num_threads(threads)
  {
    long part = omp_get_thread_num(), parts = omp_get_num_threads();
    long n = N * part / parts, end = N * (part + 1) / parts;
    // Where all of x stays in the first cache, one stream of w is fastest; otherwise four rows of w share each load of x.
    if (M > 1 && M * K > SMALL)
      for (; n + 4 <= end; n += 4) rows<4>(x, w + n * K, scale ? scale + n : nullptr, y + n, M, N, K);
    for (; n < end; n++) rows<1>(x, w + n * K, scale ? scale + n : nullptr, y + n, M, N, K);
  }
}

}  // namespace

extern "C" {

void bf16_rows(const Half* x, const Half* w, Half* y, long M, long N, long K, int threads) {
  product(x, w, (const float*)nullptr, y, M, N, K, threads);
}

void int8_rows(const Half* x, const int8_t* w, const float* scale, Half* y, long M, long N, long K, int threads) {
  product(x, w, scale, y, M, N, K, threads);
}

}
