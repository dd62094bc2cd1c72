// Maps of pixels on a CPU: bilinear resizing, and what ZoeDepth does with depth bins at every pixel.
//
// Maps are (B, height, width, channels): a pixel's channels lie together, so that registers hold 16 channels. Where a map
// of bins must first be resized, it is resized pixel by pixel and never written. Sums are float32.

#include "functions.h"
#include "panels.h"

#include <limits>
#include <vector>

namespace {

// Where each output of one dimension takes its two inputs, as PyTorch's upsample_bilinear2d does.
struct Axis {
  std::vector<long> low, high;
  std::vector<float> share;  // of `high`

  Axis(long in, long out, bool corners) : low(out), high(out), share(out) {
    const float step = corners ? (out > 1 ? (float)(in - 1) / (out - 1) : 0.0f) : (float)in / out;
    for (long i = 0; i < out; i++) {
      const float at = corners ? step * i : std::max(0.0f, step * (i + 0.5f) - 0.5f);
      low[i] = std::min((long)at, in - 1);
      high[i] = std::min(low[i] + 1, in - 1);
      share[i] = std::min(1.0f, at - low[i]);
    }
  }
};

struct Sizes {
  long batch, height, width, channels, to_height, to_width;
};

// Interpolates between four pixels.
struct Corners {
  const Half* pixel[4];
  __m512 share[4];

  Corners(const Half* map, const Sizes& s, const Axis& rows, const Axis& columns, long y, long x) {
    const float down = rows.share[y], right = columns.share[x];
    const long at[2] = {rows.low[y] * s.width, rows.high[y] * s.width};
    for (int i = 0; i < 4; i++) {
      pixel[i] = map + (at[i / 2] + (i % 2 ? columns.high[x] : columns.low[x])) * s.channels;
      share[i] = _mm512_set1_ps((i / 2 ? down : 1 - down) * (i % 2 ? right : 1 - right));
    }
  }
  __m512 get(long channel, __mmask16 mask) const {
    __m512 sum = _mm512_mul_ps(load(pixel[0] + channel, mask), share[0]);
    for (int i = 1; i < 4; i++) sum = _mm512_fmadd_ps(load(pixel[i] + channel, mask), share[i], sum);
    return sum;
  }
};

// work(corners, pixel) for every pixel of the output.
template <typename Work>
void each_pixel(const Half* map, const Sizes& s, bool corners, int threads, Work work) {
  const Axis rows(s.height, s.to_height, corners), columns(s.width, s.to_width, corners);
#pragma omp parallel for collapse(2) num_threads(threads)
  for (long b = 0; b < s.batch; b++)
    for (long y = 0; y < s.to_height; y++)
      for (long x = 0; x < s.to_width; x++)
        work(Corners(map + b * s.height * s.width * s.channels, s, rows, columns, y, x),
             (b * s.to_height + y) * s.to_width + x);
}

}  // namespace

extern "C" {

// y = x resized, plus `plus` (as y) unless that is null.
void resize(const Half* map, const Half* plus, Half* result, const Sizes* sizes, int corners, int threads) {
  const long channels = sizes->channels;
  each_pixel(map, *sizes, corners, threads, [=](const Corners& from, long pixel) {
    for (long c = 0; c < channels; c += 16) {
      const __mmask16 mask = first(channels - c);
      __m512 value = from.get(c, mask);
      if (plus) value = _mm512_add_ps(value, load(plus + pixel * channels + c, mask));
      store(result + pixel * channels + c, mask, value);
    }
  });
}

// Resized bins, each moved by the mean, or the sum, of dx / (1 + alpha · dx²), where dx leads to one of the attractors.
// attractors: (B, to_height, to_width, count).
void attract(const Half* bins, const Half* attractors, Half* result, const Sizes* sizes, long count, float alpha,
             int mean, int threads) {
  const long channels = sizes->channels;
  const __m512 one = _mm512_set1_ps(1), factor = _mm512_set1_ps(alpha);
  const __m512 part = _mm512_set1_ps(mean ? 1.0f / count : 1.0f);
  each_pixel(bins, *sizes, true, threads, [=](const Corners& from, long pixel) {
    for (long c = 0; c < channels; c += 16) {
      const __mmask16 mask = first(channels - c);
      const __m512 bin = from.get(c, mask);
      __m512 shift = _mm512_setzero_ps();
      for (long a = 0; a < count; a++) {
        const Half attractor = attractors[pixel * count + a];
        const __m512 way = _mm512_sub_ps(_mm512_castsi512_ps(_mm512_set1_epi32(attractor << 16)), bin);
        const __m512 slowed = _mm512_fmadd_ps(_mm512_mul_ps(way, way), factor, one);
        shift = _mm512_add_ps(shift, _mm512_div_ps(way, slowed));
      }
      store(result + pixel * channels + c, mask, _mm512_fmadd_ps(shift, part, bin));
    }
  });
}

// The mean of the resized bins k, weighted by softmax over k of (constants[k] + k · slopes) · sharpness.
// slopes, sharpness, result: (B, to_height, to_width), in float32 as constants are.
void expected_bin(const Half* bins, const float* constants, const float* slopes, const float* sharpness, float* result,
                  const Sizes* sizes, int threads) {
  const long channels = sizes->channels;
  const __m512 counting = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  const __m512 lowest = _mm512_set1_ps(-std::numeric_limits<float>::infinity());
  each_pixel(bins, *sizes, true, threads, [=](const Corners& from, long pixel) {
    const __m512 slope = _mm512_set1_ps(slopes[pixel]), factor = _mm512_set1_ps(sharpness[pixel]);
    auto score = [&](long c, __mmask16 mask) {
      const __m512 number = _mm512_add_ps(counting, _mm512_set1_ps(c));
      return _mm512_mul_ps(_mm512_fmadd_ps(number, slope, load(constants + c, mask)), factor);
    };
    __m512 largest = lowest;
    for (long c = 0; c < channels; c += 16) {
      const __mmask16 mask = first(channels - c);
      largest = _mm512_mask_max_ps(largest, mask, largest, score(c, mask));
    }
    const __m512 top = _mm512_set1_ps(_mm512_reduce_max_ps(largest));
    __m512 sum = _mm512_setzero_ps(), weighted = sum;
    for (long c = 0; c < channels; c += 16) {
      const __mmask16 mask = first(channels - c);
      const __m512 weight = _mm512_maskz_mov_ps(mask, exponential(_mm512_sub_ps(score(c, mask), top)));
      sum = _mm512_add_ps(sum, weight);
      weighted = _mm512_fmadd_ps(weight, from.get(c, mask), weighted);
    }
    result[pixel] = _mm512_reduce_add_ps(weighted) / _mm512_reduce_add_ps(sum);
  });
}
}
