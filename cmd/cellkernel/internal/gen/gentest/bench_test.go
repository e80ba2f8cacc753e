package gentest_test

import (
	"testing"

	flatbuffers "github.com/google/flatbuffers/go"

	"github.com/cellkernel/cellkernel/cmd/cellkernel/internal/gen/gentest"
)

func sampleJob() *gentest.Job {
	return &gentest.Job{ID: 7, Iterations: 1000, Name: "twelve bytes", Data: make([]byte, 128)}
}

func TestAllocations(t *testing.T) {
	job, buf := sampleJob(), make([]byte, 0, 512)
	msg := job.AppendFlat(nil)
	into := sampleJob()
	var sum uint64
	for name, f := range map[string]func(){
		"encode":        func() { buf = job.AppendFlat(buf[:0]) },
		"verify, read":  func() { sum += readJob(t, msg) },
		"parse, reused": func() { _ = into.ParseFlat(msg) },
	} {
		if n := testing.AllocsPerRun(100, f); n != 0 {
			t.Errorf("%s: %v allocations, want 0", name, n)
		}
	}
	if sum == 0 {
		t.Error("nothing was read")
	}
}

func readJob(t testing.TB, msg []byte) uint64 {
	v, err := gentest.ParseJobView(msg)
	if err != nil {
		t.Fatal(err)
	}
	return v.ID() + uint64(v.Iterations()) + uint64(len(v.Name())) + uint64(len(v.Data()))
}

func BenchmarkEncode(b *testing.B) {
	job, buf := sampleJob(), make([]byte, 0, 512)
	b.ReportAllocs()
	for b.Loop() {
		buf = job.AppendFlat(buf[:0])
	}
	b.ReportMetric(float64(len(buf)), "bytes")
}

func BenchmarkVerifyRead(b *testing.B) {
	msg := sampleJob().AppendFlat(nil)
	b.ReportAllocs()
	for b.Loop() {
		readJob(b, msg)
	}
}

func BenchmarkParse(b *testing.B) {
	msg := sampleJob().AppendFlat(nil)
	into := sampleJob()
	b.ReportAllocs()
	for b.Loop() {
		_ = into.ParseFlat(msg)
	}
}

// The official runtime, which does not verify.

func buildJob(b *flatbuffers.Builder, j *gentest.Job) []byte {
	b.Reset()
	name, data := b.CreateString(j.Name), b.CreateByteVector(j.Data)
	b.StartObject(4)
	b.PrependUint64Slot(0, j.ID, 0)
	b.PrependUint32Slot(1, j.Iterations, 0)
	b.PrependUOffsetTSlot(2, name, 0)
	b.PrependUOffsetTSlot(3, data, 0)
	b.Finish(b.EndObject())
	return b.FinishedBytes()
}

func rootOf(msg []byte) flatbuffers.Table {
	return flatbuffers.Table{Bytes: msg, Pos: flatbuffers.GetUOffsetT(msg)}
}

func BenchmarkOfficialEncode(b *testing.B) {
	job, builder := sampleJob(), flatbuffers.NewBuilder(512)
	b.ReportAllocs()
	for b.Loop() {
		buildJob(builder, job)
	}
}

func BenchmarkOfficialRead(b *testing.B) {
	msg := sampleJob().AppendFlat(nil)
	b.ReportAllocs()
	var sum uint64
	for b.Loop() {
		t := rootOf(msg)
		field := func(slot int) flatbuffers.UOffsetT {
			return t.Pos + flatbuffers.UOffsetT(t.Offset(flatbuffers.VOffsetT(4+2*slot)))
		}
		sum += t.GetUint64(field(0)) + uint64(t.GetUint32(field(1))) + uint64(len(t.ByteVector(field(2)))) + uint64(len(t.ByteVector(field(3))))
	}
	if sum == 0 {
		b.Error("nothing was read")
	}
}
