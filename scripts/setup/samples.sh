# shellcheck shell=bash
# Real input for `make run` and the tests, from the package silero-vad on PyPI (MIT licence): the
# TorchScript model in its wheel and the speech recordings in its sdist. docs/test-data.md describes them.

SILERO=silero-vad==6.2.3
SILERO_WHEEL_SHA256=7b7f5436cfcb02fae583a05b512ea96467fd449fe54cb49a5e4f06c51a1e43b8
SILERO_SDIST_SHA256=d7a23b09202be4953915cb9173089bb307eed0418a9bd4794d9ec5af07fa1996
SILERO_MODEL_SHA256=e1122837f4154c511485fe0b9c64455f7b929c96fbb8d79fbdb336383ebd3720
SPEECH_60S_SHA256=89f17d9c94c4b31eb320f424628bcbc920abaddbee6e2760fd868bfb1d9a2e47
SPEECH_169S_SHA256=a622cb1cdd8a52db84b0d4bb524fa9a93f9ed387de40530f87c3a57d7493fd49

need_sample_model() {
  local folder=$HEADROOM_CACHE/models/silero-vad/1
  if ! matches "$folder/model.pt" "$SILERO_MODEL_SHA256"; then
    open_work
    if ! matches "$folder/model.pt" "$SILERO_MODEL_SHA256"; then
      need_space 60 "the sample model"
      say "fetching the sample model silero-vad from PyPI (11 MiB)"
      from_pypi "$WORK/silero" "$SILERO" "$SILERO_WHEEL_SHA256" --only-binary=:all:
      bounded 120 python3 "$SETUP/extract.py" "$WORK"/silero/silero_vad-*.whl "$WORK/silero" \
        silero_vad/data/silero_vad.jit silero_vad-6.2.3.dist-info/licenses/LICENSE
      place "$WORK/silero/silero_vad-6.2.3.dist-info/licenses/LICENSE" "$folder/LICENSE"
      place "$WORK/silero/silero_vad/data/silero_vad.jit" "$folder/model.pt"
      matches "$folder/model.pt" "$SILERO_MODEL_SHA256" || die "the checksum of silero-vad's model is not the expected one"
    fi
  fi
  if ! cmp -s config/models/silero-vad.toml "$folder/model.toml"; then
    open_work
    cp config/models/silero-vad.toml "$WORK/model.toml"
    place "$WORK/model.toml" "$folder/model.toml"
  fi
}

need_speech_samples() {
  local folder=$HEADROOM_CACHE/samples sdist=silero_vad-6.2.3
  speech_is_complete "$folder" && return
  open_work
  speech_is_complete "$folder" && return
  need_space 120 "the speech samples"
  say "fetching speech samples from silero-vad's sdist on PyPI (28 MiB)"
  from_pypi "$WORK/speech" "$SILERO" "$SILERO_SDIST_SHA256" --no-binary=silero-vad
  bounded 120 python3 "$SETUP/extract.py" "$WORK/speech/$sdist.tar.gz" "$WORK/speech" \
    "$sdist/LICENSE" "$sdist/tests/data/test.wav" "$sdist/examples/c++/aepyx.wav"
  place "$WORK/speech/$sdist/LICENSE" "$folder/LICENSE"
  place "$WORK/speech/$sdist/tests/data/test.wav" "$folder/speech-60s.wav"
  place "$WORK/speech/$sdist/examples/c++/aepyx.wav" "$folder/speech-169s.wav"
  speech_is_complete "$folder" || die "the checksums of the speech samples are not the expected ones"
}

speech_is_complete() {
  matches "$1/speech-60s.wav" "$SPEECH_60S_SHA256" && matches "$1/speech-169s.wav" "$SPEECH_169S_SHA256"
}
