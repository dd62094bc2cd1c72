// What layers do between their products, on a CPU: norms, rotary positions, activations; bfloat16, computed in float32.

#include "functions.h"
#include "operators.h"
#include "panels.h"

#include <cmath>

namespace {

constexpr long MORE_THREADS = 1 << 15;  // numbers below which one thread is as fast as two

}  // namespace

extern "C" {

// y = x / sqrt(mean(x²) + eps) · (1 + weight), for each of the rows (rows, size).
void rms_norm(const Half* x, const Half* weight, Half* y, long rows, long size, float eps, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > MORE_THREADS)
  for (long r = 0; r < rows; r++) {
    const Half* from = x + r * size;
    __m512 squares = _mm512_setzero_ps();
    for (long i = 0; i < size; i += 16) {
      __m512 value = load(from + i, first(size - i));
      squares = _mm512_fmadd_ps(value, value, squares);
    }
    const __m512 scale = _mm512_set1_ps(1 / std::sqrt(_mm512_reduce_add_ps(squares) / size + eps));
    const __m512 one = _mm512_set1_ps(1);
    for (long i = 0; i < size; i += 16) {
      const __mmask16 mask = first(size - i);
      __m512 normed = _mm512_mul_ps(load(from + i, mask), scale);
      store(y + r * size + i, mask, _mm512_mul_ps(normed, _mm512_add_ps(load(weight + i, mask), one)));
    }
  }
}

// y = gelu(x), by the tanh approximation, for all numbers.
void gelu_tanh(const Half* x, Half* y, long numbers, int threads) {
#pragma omp parallel for num_threads(threads) if (numbers > MORE_THREADS)
  for (long i = 0; i < numbers; i += 16) store(y + i, first(numbers - i), gelu(load(x + i, first(numbers - i))));
}

// y = gelu(gate) · up, by the tanh approximation; x holds (rows, 2 · size), gate before up.
void geglu(const Half* x, Half* y, long rows, long size, int threads) {
#pragma omp parallel for num_threads(threads) if (rows * size > MORE_THREADS)
  for (long r = 0; r < rows; r++)
    for (long i = 0; i < size; i += 16) {
      const __mmask16 mask = first(size - i);
      const __m512 gate = load(x + r * 2 * size + i, mask), up = load(x + (r * 2 + 1) * size + i, mask);
      store(y + r * size + i, mask, _mm512_mul_ps(gelu(gate), up));
    }
}

// The rotary position embedding: x (B, N, T, H) with any strides but the last, cos and sin (B, T, H), y (B, N, T, H).
void rotate(const Half* x, const Half* cos, const Half* sin, Half* y, long B, long N, long T, long H, const long* strides,
            int threads) {
#pragma omp parallel for collapse(3) num_threads(threads) if (B * N * T * H > MORE_THREADS)
  for (long b = 0; b < B; b++)
    for (long n = 0; n < N; n++)
      for (long t = 0; t < T; t++) {
        const Half* from = x + b * strides[0] + n * strides[1] + t * strides[2];
        const Half *c = cos + (b * T + t) * H, *s = sin + (b * T + t) * H;
        Half* to = y + ((b * N + n) * T + t) * H;
        const long half = H / 2;
        for (long i = 0; i < half; i += 16) {
          const __mmask16 mask = first(half - i);
          const __m512 a = load(from + i, mask), z = load(from + half + i, mask);
          const __m512 turned = _mm512_fnmadd_ps(z, load(s + i, mask), _mm512_mul_ps(a, load(c + i, mask)));
          store(to + i, mask, turned);
          const __m512 other = _mm512_mul_ps(z, load(c + half + i, mask));
          store(to + half + i, mask, _mm512_fmadd_ps(a, load(s + half + i, mask), other));
        }
      }
}
}
