from lab import *
m=load_model(CITY); eps=episodes(30)
views=[(s,f) for s in(.75,1,1.25,1.5,2) for f in(0,1)]
combos={'1':[(1,0)],'1f':[(1,0),(1,1)],'.75':[(.75,0)],'1.25':[(1.25,0)],'1.5':[(1.5,0)],'2':[(2,0)],
'1+1.5':[(1,0),(1.5,0)],'1f+1.5f':[(1,0),(1,1),(1.5,0),(1.5,1)],'1,1.25,1.5 f':[(s,f) for s in(1,1.25,1.5) for f in (0,1)],'.75-1.5 f':[(s,f) for s in(.75,1,1.25,1.5) for f in (0,1)],'.75-2 f':views,'1-2 f':[(s,f) for s in(1,1.25,1.5,2) for f in (0,1)],'1+1.5+2':[(1,0),(1.5,0),(2,0)],'1,1.5 f':[(s,f) for s in (1,1.5) for f in (0,1)]}
C={}
t0=time.time()
for share in (0,.3):
  for k,t,ev in eps:
    clip,_=pseudo(t,10)
    L,S,T=bn_stats(m,m.preprocess(clip[[0,4,9]],PS,CPU)); set_stats(L,lerp(S,T,share))
    for e in ev[:2]:
        im=image(e); gt=labels(e); P={}
        for s,f in views:
            size=tuple(int(round(x*s/16))*16 for x in (368,480))
            x=np.ascontiguousarray(im[:,::-1] if f else im)[None]
            p=m.enlarge_logits(logits(m,x,size),(360,480)).softmax(1)[0]
            P[s,f]=p.flip(-1) if f else p
        for n,c in combos.items():
            pr=sum(P[v] for v in c)[:11].argmax(0).numpy()
            C.setdefault((share,n,k),np.zeros((11,11),int)); C[share,n,k]+=conf(gt,pr)
    set_stats(L,S)
  for n in combos:
    per=[miou(C[share,n,k]) for k in DR]; tot=sum(C[share,n,k] for k in DR)
    print(share,f'{n:14s} all {miou(tot):.1f} drives',' '.join(f'{x:.1f}' for x in per),'|',' '.join(f'{x:.0f}' for x in iou(tot)),f'{time.time()-t0:.0f}s',flush=True)
save('multiview',{f'{a}|{b}|{k}':C[a,b,k].tolist() for a,b,k in C})
