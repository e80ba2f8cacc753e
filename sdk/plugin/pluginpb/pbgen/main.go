// Command pbgen generates the Go code of the proto files in the working
// directory. It compiles them in process and runs two pinned generators, so
// that nothing but the Go tool has to be installed. Its argument makes the
// names of the files unique in the registry that all Go packages of a program
// share: "cellkernel/plugin/v1".
package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path"
	"path/filepath"

	"github.com/bufbuild/protocompile"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/types/descriptorpb"
	"google.golang.org/protobuf/types/pluginpb"
)

// generators are what turns descriptors into Go. The first is of the version
// that go.mod requires.
func generators() [][]string {
	return [][]string{
		{"run", "google.golang.org/protobuf/cmd/protoc-gen-go"},
		{"run", "google.golang.org/grpc/cmd/protoc-gen-go-grpc@v1.6.2"},
	}
}

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "usage: pbgen PREFIX")
		os.Exit(2)
	}
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "pbgen:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, prefix string) error {
	names, err := filepath.Glob("*.proto")
	if err != nil {
		return fmt.Errorf("find proto files: %w", err)
	}
	for i, n := range names {
		names[i] = path.Join(prefix, n)
	}
	req, err := compile(ctx, names)
	if err != nil {
		return err
	}
	for _, args := range generators() {
		if err := generate(ctx, args, req); err != nil {
			return fmt.Errorf("%s: %w", args[len(args)-1], err)
		}
	}
	return nil
}

// compile parses the files, which import nothing.
func compile(ctx context.Context, names []string) (*pluginpb.CodeGeneratorRequest, error) {
	c := protocompile.Compiler{
		Resolver: &protocompile.SourceResolver{Accessor: func(name string) (io.ReadCloser, error) {
			return os.Open(filepath.Base(name))
		}},
		SourceInfoMode: protocompile.SourceInfoStandard,
	}
	files, err := c.Compile(ctx, names...)
	if err != nil {
		return nil, err
	}
	var descs []*descriptorpb.FileDescriptorProto
	for _, f := range files {
		descs = append(descs, protodesc.ToFileDescriptorProto(f))
	}
	return &pluginpb.CodeGeneratorRequest{
		FileToGenerate: names,
		Parameter:      proto.String("paths=source_relative"),
		ProtoFile:      descs,
	}, nil
}

// generate speaks the protocol of protoc's plugins: a request on standard
// input, a response with files on standard output.
func generate(ctx context.Context, args []string, req *pluginpb.CodeGeneratorRequest) error {
	in, err := proto.Marshal(req)
	if err != nil {
		return err
	}
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Stdin, cmd.Stderr = bytes.NewReader(in), os.Stderr
	out, err := cmd.Output()
	if err != nil {
		return err
	}
	var resp pluginpb.CodeGeneratorResponse
	if err := proto.Unmarshal(out, &resp); err != nil {
		return err
	}
	if resp.Error != nil {
		return fmt.Errorf("generate: %s", resp.GetError())
	}
	for _, f := range resp.File {
		if err := os.WriteFile(filepath.Base(f.GetName()), []byte(f.GetContent()), 0o644); err != nil {
			return err
		}
	}
	return nil
}
